# The commands that people type.  The build itself is meson's.
PREFIX ?= /usr/local
BUILD ?= build

.PHONY: all demo demo-store check chaos bench install clean deps

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

deps:
	@scripts/deps

$(BUILD)/build.ninja: | deps
	@meson setup $(BUILD) --prefix=$(PREFIX) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

demo: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec scripts/demo $(DEMO_ARGS)

demo-store: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec scripts/demo-store $(DEMO_ARGS)

check: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec scripts/check

# Hundreds of random fault schedules: RUNS=300 SECONDS=20 SEED=1.
chaos: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec tests/chaos/chaos.py $(if $(RUNS),--runs $(RUNS)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

bench: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec bench/run $(if $(QUICK),--quick)

install: all
	@meson configure $(BUILD) --prefix=$(PREFIX)
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --quiet

clean:
	@rm -rf $(BUILD)
