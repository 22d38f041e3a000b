# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
SITE ?= site
# Modules are compiled when they are first imported, not all at installation.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow test-matrix lint notebooks docs clean

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile \
	  --editable ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python train.py --config=configs/digits.py \
	  --workdir=$(RUNS)/digits-standard
	$(BIN)/python train.py --config=configs/digits.py \
	  --workdir=$(RUNS)/digits-pgd --config.objective.name=pgd
	$(BIN)/python evaluate.py --workdir=$(RUNS)/digits-standard \
	  --workdir=$(RUNS)/digits-pgd --output=$(RUNS)/digits-report

# A file of tests stays on one process, where it shares compiled programs. Files
# stay in their order: else those of few tests, often long, would come last, and
# all processes but one would wait for the end.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 \
  --dist=loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m "not slow and not oracle"

test-slow: $(STAMP)
	$(PYTEST) -m slow

# Other processors, threads, devices, Python and JAX: see .ci/matrix.
test-matrix:
	.ci/matrix $(CASES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Runs every notebook and writes its outputs into it.
notebooks: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-compile \
	  --editable ".[notebooks]"
	$(BIN)/python -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

# The pages of docs/ as a site in SITE; open SITE/index.html, also offline.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet \
	  --site-dir $(SITE)

clean:
	rm -rf $(VENV) $(RUNS) $(SITE) .matrix build *.egg-info
