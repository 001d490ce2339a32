# Everything from a fresh clone: only Python >= 3.11 is needed. `make demo` restores a scratched photograph (once the
# prior of photographs is in the package) and a half-hidden face, `make test` tests.
# PyTorch: elsewhere than on the machines this is tested on, choose its build, for example
#   make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
TORCH_ARGS ?=
BIN := $(VENV)/bin
DEMO := runs/demo
PHOTOS := $(wildcard rsd/heads/weights/photos/model_index.json)

.DEFAULT_GOAL := demo
.PHONY: demo test lint docs wheel clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rsd needs Python 3.11 or newer; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0 $(TORCH_ARGS)
	$(BIN)/pip install -q -e '.[dev]' -c constraints.txt
	touch $@

demo: $(VENV)/ready  ## a scratched photograph and a half-hidden face, restored in runs/demo
	rm -rf $(DEMO)
ifneq ($(PHOTOS),)
	$(BIN)/python -m scripts.scratched --out $(DEMO)/scratched
	$(BIN)/rsd restore $(DEMO)/scratched/photo.png --mask $(DEMO)/scratched/mask.png --out $(DEMO)/photo
	@echo "look at $(DEMO)/photo/estimate.png, the answer of least error, and grid.png"
endif
	$(BIN)/rsd heads --out $(DEMO)/heads --number 1 --first 8
	$(BIN)/rsd restore $(DEMO)/heads/head-0008.png --clean --task inpaint_half_face --out $(DEMO)/restored
	@echo "look at $(DEMO)/restored/grid.png, spread.png and evolution.gif"

# Without coverage, which takes a third more time: `make test COVERAGE=1` reports it.
test: $(VENV)/ready  ## the default suite on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report=term)

lint: $(VENV)/ready  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready  ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/ready  ## a wheel in dist/
	$(BIN)/python -m build --wheel

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist $(DEMO) *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache
