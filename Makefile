# Everything happens in .venv, which is made when first needed and again when pyproject.toml or constraints.txt change.
#
#   make demo                 set up, then complete a half-hidden face in four ways: pictures in runs/demo
#   make test                 set up, then run the tests       (the minutes-long ones: make test ARGS="-m slow")
#   make lint                 set up, then ruff and mypy       (make format writes what ruff can mend)
#   make clean                remove .venv, caches and the demo's pictures; your other runs stay
#
# Another Python:             make demo PYTHON=python3.12
# Another build of PyTorch:   make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
#                             (the first time; after a change of mind, make clean)

PYTHON ?= python3
TORCH_ARGS ?=
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/installed
TORCH := $(shell sed -n 's/^torch==/&/p' constraints.txt)

.PHONY: help demo test lint format clean

help:
	@sed -n -e '/^$$/q' -e 's/^# \{0,1\}//p' Makefile

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/rsd heads --out runs/demo/heads --number 1
	$(BIN)/rsd restore runs/demo/heads/head-0000.png --clean --task inpaint_half_face --out runs/demo/half-face
	@echo
	@echo "Look at runs/demo/half-face: grid.png (the answers), spread.png (where they differ), evolution.gif"

test: $(INSTALLED)
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .coverage build dist *.egg-info runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# PyTorch comes first and alone, so that TORCH_ARGS can name another index for it and for nothing else.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit("rsd needs Python 3.11 or newer, but $(PYTHON) is " + v + "; name another: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(TORCH_ARGS) $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@
