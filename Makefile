# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Idle threads sleep instead of spinning: on few cores, spinning costs more than the work.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/python scripts/demo.py

test: $(READY) lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p wavecast

$(READY): pyproject.toml constraints.txt core/ops/scan/native.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,plot,metrics]"
	touch $(READY)

clean:
	rm -rf $(VENV) build demo *.egg-info core/ops/scan/*.so
