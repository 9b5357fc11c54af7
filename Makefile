# `make demo` and `make test` do all their own set-up in .venv; nothing else is needed but Python 3.11 to 3.13.

VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test slow lint bench bench-cifar ablation clean

demo: $(VENV)/.installed
	$(BIN)/certidote demo --out runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Only files that hold such a test: to collect all the others takes half a minute.
slow: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow and not (alone or gpu or unsettled)' --durations=10 $$(grep -rlE --include='*.py' 'mark\.slow' tests)
	$(BIN)/python -m pytest -m 'alone and not (gpu or unsettled)' --durations=10 $$(grep -rlE --include='*.py' 'mark\.alone' tests)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/certification_loop.py
	$(BIN)/python benchmarks/fractions_of_peak.py
	$(BIN)/python benchmarks/certificates.py
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/crafting_together.py

# CIFAR-10 as JPEG from CERTIDOTE_DATA or ../shared/data; a quarter of an hour on a machine that does nothing else.
bench-cifar: $(VENV)/.installed-test
	$(BIN)/python benchmarks/photographs.py

ablation: $(VENV)/.installed
	$(BIN)/python benchmarks/ablation.py

# torch first and by its exact pin, so that a CPU build is taken where the package index offers one.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or give its path: make PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
