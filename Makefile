# A thin front for Meson: every target here only names what scripts/ and Meson do.
.PHONY: all deps check crash demo fuzz bench install uninstall clean format
BUILD ?= build

all: deps
	@[ -d $(BUILD) ] || meson setup $(BUILD) --buildtype=release -Dtests=false
	@ninja -C $(BUILD)

deps:
	@scripts/deps build

check:
	@tests/run-all

# Crash states of pools: a quick number of them is in the tests, this is the full one.
crash: deps
	@[ -d build-crash ] || meson setup build-crash --buildtype=release
	@ninja -C build-crash tests/unit/test_parallax_crash
	@PARALLAX_CRASHES=$${STATES:-100000} build-crash/tests/unit/test_parallax_crash

demo: all
	@python3 scripts/demo

fuzz:
	@fuzz/run --seconds 600

bench: all
	@bench/run

install: all
	@meson install -C $(BUILD)

uninstall:
	@ninja -C $(BUILD) uninstall

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf build build-asan build-crash build-tsan build-fuzz
