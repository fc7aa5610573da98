# One command each.  Every target does its own set-up; set-up is quick when nothing changed.
.PHONY: help setup setup-dev demo test test-all test-unit test-vm test-fresh lint bench launcher man peers release-check clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python3
TESTS := tests
PYTEST := $(PYTHON) -m pytest -p no:cacheprovider
STREAMS := 2
IN_STREAMS := -n $(STREAMS) --dist loadfile --no-loadscope-reorder

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## packages, .venv with the four commands, the launcher
	@tools/setup.sh run

setup-dev:  ## set-up, and what tests and linters need
	@tools/setup.sh dev

demo: setup  ## start an engine in a network of its own, run a container, show what the kernel shows, clean up
	@$(PYTHON) -I tools/demo.py

test: setup-dev  ## the gate: linters, unit, golden, fuzz, conformance, system, clients, peers, attacks, faults (STREAMS=0: one after the other)
	@CORTEN_TEST_COMMAND='make $@' $(PYTEST) $(IN_STREAMS) -m 'not slow' $(TESTS)

test-all: setup-dev  ## the gate and the tests marked slow
	@CORTEN_TEST_COMMAND='make $@' $(PYTEST) $(IN_STREAMS) $(TESTS)

test-unit: setup-dev  ## what needs no root, on all cores
	@$(PYTEST) -n auto tests/unit tests/golden

test-vm: setup-dev  ## everything in the virtual machine: Debian's kernel, cgroup v2 alone, AppArmor, systemd, CRIU
	@CORTEN_TEST_COMMAND='make $@' $(PYTEST) $(wildcard tests/system/test_*_v2.py) tests/system/test_launch_kernel.py

test-fresh: setup-dev  ## the demo and the gate in a new minimal Debian (SUITE=trixie: 13), from a clone of this checkout
	@$(PYTHON) -I tools/fresh.py $(addprefix --suite=,$(SUITE)) $(TARGETS)

lint: setup-dev  ## ruff, mypy --strict, import rules, import budget
	@$(PYTEST) -q tests/unit/house

bench: setup-dev  ## Corten beside its peers, in one run
	@$(PYTHON) bench/run.py

peers: setup-dev  ## fetch the peers that tests and bench drive (into .cache/peers)
	@PYTHONPATH=tests $(PYTHON) -m support.peers

release-check:  ## fails when launcher, launch, runtime, spec or sys changed since the recorded `make test-all`
	@$(or $(wildcard $(PYTHON)),python3) -I tools/release_check.py

man: setup  ## build/man: a page for each command of corten
	@.venv/bin/corten __manual build/man

launcher:  ## build/launcher/corten-launch
	@$(MAKE) --no-print-directory -C launcher

clean:  ## remove what was built; the caches of peers and images stay
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +
