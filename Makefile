# The commands that people type.  The build itself is meson's.
PREFIX ?= /usr/local
BUILD ?= build

.PHONY: all demo check bench install clean deps

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

deps:
	@scripts/deps

$(BUILD)/build.ninja: | deps
	@meson setup $(BUILD) --prefix=$(PREFIX) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

demo: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec scripts/demo $(DEMO_ARGS)

check: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec scripts/check

bench: deps all
	@SNF_BUILD=$(abspath $(BUILD)) exec bench/run $(if $(QUICK),--quick)

install: all
	@meson configure $(BUILD) --prefix=$(PREFIX)
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --quiet

clean:
	@rm -rf $(BUILD)
