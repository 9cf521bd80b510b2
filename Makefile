# Thin names for scripts/dev.py, which does the work on every system (without make: python scripts/dev.py workbench).
# Arguments pass through ARGS:  make test ARGS="tests/basis -x"

PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup workbench test lint notebooks docs faults lock

help:
	@$(PYTHON) scripts/dev.py --help

setup workbench test lint notebooks docs faults lock:
	@$(PYTHON) scripts/dev.py $@ $(ARGS)
