# All of it sets itself up, from nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := $(VENV)/oldest
AOT := $(VENV)/aot
DOCS := $(VENV)/docs
RELEASE := $(VENV)/release

.PHONY: demo test test-all compiled oldest guard mutations docs release-check clean

demo: $(VENV)/examples
	$(BIN)/python -m examples.image_classification

test: $(VENV)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# Everything: also every wrapper around every optimiser, long statistical runs, notebooks, processes that are killed.
test-all: $(VENV)/test compiled
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal
	$(BIN)/python -m tests.guard

# The programs that XLA makes for a TPU, and for a GPU where a CUDA toolkit is found: compiled, not run.
compiled: $(AOT)/test
	JAX_PLATFORMS=cpu $(AOT)/bin/pytest tests/programs/test_compiled.py

# Breaks the package in many places, one by one, each of which the tests must find.
mutations: $(VENV)/test
	$(BIN)/python -m tests.mutations

# The fast tests on the oldest JAX, Optax and Flax that pyproject.toml admits. `make test` in a new .venv has the newest
# that run on $(PYTHON): JAX after 0.10 wants Python 3.12.
oldest: $(OLDEST)/test
	$(OLDEST)/bin/pytest -n 2 --dist worksteal -m "not slow"

# The statistical guard, whose false alarms are those of 1 seed in 1000: SEED=1 make guard.
guard: $(VENV)/test
	$(BIN)/python -m tests.guard

# The site, into docs/_build/html. Warnings are errors; nothing on it is loaded from elsewhere.
docs: $(DOCS)/docs
	rm -rf docs/_build
	JAX_PLATFORMS=cpu $(DOCS)/bin/sphinx-build -W --keep-going --quiet -c docs -d docs/_build/doctrees . docs/_build/html

$(DOCS)/docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@

# What would be published: built, checked, and installed where nothing else is, on the oldest versions and the newest.
release-check: $(RELEASE)/release
	rm -rf dist
	$(RELEASE)/bin/python -m build --outdir dist
	$(RELEASE)/bin/twine check --strict dist/*
	for constraint in "--constraint tests/oldest.txt" ""; do \
	  rm -rf $(RELEASE)/empty && $(BIN)/python -m venv $(RELEASE)/empty && \
	  $(RELEASE)/empty/bin/pip install --quiet --disable-pip-version-check $$constraint dist/*.whl && \
	  $(RELEASE)/empty/bin/pip list | grep -i "^\(jax\|jaxlib\|optax\|langevin_optax\) " && \
	  $(RELEASE)/empty/bin/python -I -W error tests/typed_user.py || exit 1; \
	done

$(RELEASE)/release: $(BIN)/python pyproject.toml
	$(BIN)/python -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --editable ".[release]"
	@touch $@

$(AOT)/test: $(BIN)/python pyproject.toml
	$(BIN)/python -m venv $(AOT)
	$(AOT)/bin/pip install --quiet --disable-pip-version-check --editable ".[aot,test]"
	@touch $@

clean:
	rm -rf $(VENV) results dist docs/_build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "langevin_optax needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/examples $(VENV)/test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(notdir $@)]"
	@touch $@

$(OLDEST)/test: $(BIN)/python pyproject.toml tests/oldest.txt
	$(BIN)/python -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/oldest.txt --editable ".[test]"
	@touch $@
