# Needs python3 >= 3.11 (with venv) and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
OUT ?= demo
# Rubin's engine is kept apart: it brings some sixty packages.
LSST_VENV ?= .venv-lsst

BIN := $(VENV)/bin

.PHONY: demo test test-lsst lint bench clean

demo: $(VENV)/installed
	$(BIN)/gpucoadd demo --out $(OUT)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 $(ARGS)

# Without the engine these tests skip; here it must be there.
test-lsst: $(LSST_VENV)/installed
	$(LSST_VENV)/bin/python -c "import gpucoadd.lsst"
	$(LSST_VENV)/bin/python -m pytest tests/engine $(ARGS)

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

bench: $(VENV)/bench
	$(BIN)/python benchmarks/bench_stack.py $(ARGS)
	$(BIN)/python benchmarks/bench_coadd.py $(ARGS)
	$(BIN)/python benchmarks/bench_decorrelation.py $(ARGS)

clean:
	rm -rf $(VENV) $(LSST_VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps: made again when pyproject.toml changes.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e . --group test
# The tests run the kernels on the CPU, for which they want a C++ compiler: a large wheel, only where there is none.
	{ command -v "$$CXX" || command -v g++ || command -v c++ || command -v clang++; } >/dev/null || \
		$(BIN)/python -m pip install --quiet ziglang
	touch $@

$(LSST_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(LSST_VENV)
	$(LSST_VENV)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(LSST_VENV)/bin/python -m pip install --quiet -e ".[bps]" --group test-lsst
	touch $@

$(VENV)/lint: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

$(VENV)/bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group bench
	touch $@
