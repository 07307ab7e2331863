# A thin front for Meson: every target here only names what scripts/ and Meson do.
.PHONY: all deps check crash model kills demo fuzz bench install uninstall clean format
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

# The same for pools beside a model (STEPS, of up to four requests, in each of some runs), and for deaths under load.
model: deps
	@[ -d build-crash ] || meson setup build-crash --buildtype=release
	@ninja -C build-crash tests/unit/test_parallax
	@PARALLAX_STEPS=$${STEPS:-200000} build-crash/tests/unit/test_parallax

kills: all
	@DEVTAP_POOL_KILLS=$${KILLS:-100} DEVTAP_NET_KILLS=$${KILLS:-100} tests/run-system --filter '^(pool.killed|net_kill)'

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
