# A thin front for Meson: every target here only names what scripts/ and Meson do.
.PHONY: all deps check demo fuzz bench install uninstall clean format
BUILD ?= build

all: deps
	@[ -d $(BUILD) ] || meson setup $(BUILD) --buildtype=release -Dtests=false
	@ninja -C $(BUILD)

deps:
	@scripts/deps build

check:
	@tests/run-all

demo: all
	@scripts/demo

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
	rm -rf build build-asan build-tsan build-fuzz
