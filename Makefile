# Everything here stays inside the checkout: environments in .venv/, downloads in .cache/, Airflow in .airflow/.
#
#   make demo                          the newest Airflow line, with python3
#   make test AIRFLOW=2.11             another line, with its newest libraries: 3.3 (the default), 3.1, 2.11
#   make test AIRFLOW=3.0.6            a release of constraints/official/, with Python 3.12
#   make test PYTHON=python3.13        another Python
#   make test TESTS="tests/test_jobs.py -x"
#   make test WORKERS=2                so many tests at a time

AIRFLOW ?= 3.3
OFFICIAL := $(wildcard constraints/official/$(AIRFLOW).txt)
PYTHON ?= $(if $(OFFICIAL),python3.12,python3)
TESTS ?=
# Most tests wait more than they compute, so each core carries two workers.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

VENV := .venv/$(AIRFLOW)-$(notdir $(patsubst %/bin/python,%,$(PYTHON)))
BIN := $(VENV)/bin
CONSTRAINTS := $(or $(OFFICIAL),constraints/airflow-$(AIRFLOW).txt)
READY := $(VENV)/.ready

export UV_CACHE_DIR := $(CURDIR)/.cache/uv
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without compiled files every start of Airflow takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format airflow docs links pictures bench wheel constraints clean

help:  ## List what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## Set up the environment; the other targets do it by themselves

$(READY): pyproject.toml $(CONSTRAINTS)
	@echo "Setting up $(VENV) with Airflow $(AIRFLOW) (once) ..."
ifneq ($(OFFICIAL),)
	@constraints/official/install $(AIRFLOW) $(PYTHON) $(VENV)
else
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --editable '.[testing,parquet]' --group dev
endif
	@touch $@

demo: $(READY)  ## Run three DAGs on a local Personalize: create a job, wait for one that fails, make a table
	@$(BIN)/python -m airflow_provider_personalize_segments.testing.demo

test: $(READY)  ## Run the tests
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist load --durations 25 $(TESTS)

lint: $(READY)  ## Check format, style and types
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

format: $(READY)  ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

airflow: $(READY)  ## Run Airflow with the example DAGs on a local Personalize, until Ctrl-C
	@$(BIN)/python -m airflow_provider_personalize_segments.testing.standalone

DOCS := .venv/docs
SPHINX = $(DOCS)/bin/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet --doctree-dir docs/_build/doctrees

# An environment of its own, so that the tests' holds nothing that only the documentation needs.
$(DOCS)/.ready: $(READY) constraints/docs.txt
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(DOCS)
	@$(BIN)/uv pip install --quiet --python $(DOCS)/bin/python --constraint constraints/airflow-3.3.txt \
		--constraint constraints/docs.txt --editable '.[testing]' --group docs
	@touch $@

docs: $(DOCS)/.ready  ## Build the documentation into docs/_build/html; broken references are errors
	@$(SPHINX) --builder html docs docs/_build/html && echo docs/_build/html/index.html

links: $(DOCS)/.ready  ## Ask the network whether the pages that the documentation links to are there
	@$(SPHINX) --builder linkcheck docs docs/_build/links

PICTURES := .venv/pictures

$(PICTURES)/.ready: $(READY) constraints/docs.txt
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(PICTURES)
	@$(BIN)/uv pip install --quiet --python $(PICTURES)/bin/python --constraint constraints/docs.txt --group pictures
	@touch $@

pictures: $(PICTURES)/.ready  ## Take the documentation's pictures of Airflow anew, with /usr/bin/chromium (5 minutes)
	@$(PICTURES)/bin/python docs/pictures.py $(BIN)/python

BENCH := .venv/bench

# An environment of its own: aiobotocore, which only the amazon provider's pattern needs, holds botocore back, and
# nothing else needs Polars and DuckDB.
$(BENCH)/.ready: $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(BENCH)
	@$(BIN)/uv pip install --quiet --python $(BENCH)/bin/python --editable '.[parquet]' \
		"$$(grep ^apache-airflow== $(CONSTRAINTS))" 'apache-airflow-providers-amazon[aiobotocore]' polars duckdb
	@touch $@

TRIGGERS ?= 1000
# The share of the users and records that Parquet is made of.
SCALE ?= 1

bench: $(READY) $(BENCH)/.ready  ## Measure importing, waiting, watching and making Parquet, side by side with others (15 minutes)
	@$(BIN)/python benchmarks/import_cost.py
	@$(BENCH)/bin/python benchmarks/waiting_cost.py --triggers $(TRIGGERS)
	@$(BIN)/python benchmarks/watching_cost.py
	@$(BENCH)/bin/python benchmarks/parquet_cost.py --scale $(SCALE)

wheel: $(READY)  ## Build the wheel into dist/
	@rm -rf dist && $(BIN)/uv build --quiet --wheel --out-dir dist && ls dist/*.whl

# Names and versions only: where packages come from is the business of the machine that installs them.
COMPILE_GROUPS = $(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links
COMPILE = $(COMPILE_GROUPS) --extra testing --extra parquet --group dev pyproject.toml

constraints: $(READY)  ## Compile constraints/ but official/ anew, to the newest versions
	@$(COMPILE) --universal --python-version 3.11 --constraint constraints/airflow-3.1.in --output-file constraints/airflow-3.1.txt
	@printf 'apache-airflow==3.3.*\n' | $(COMPILE) --universal --python-version 3.11 --constraint - --output-file constraints/airflow-3.3.txt
	@printf 'apache-airflow==2.11.*\n' | $(COMPILE) --universal --python-version 3.11 --constraint - --output-file constraints/airflow-2.11.txt
	@$(COMPILE_GROUPS) --universal --python-version 3.11 --constraint constraints/airflow-3.3.txt --group docs --group pictures --output-file constraints/docs.txt

clean:  ## Remove everything that was set up, built or left behind
	@rm -rf .venv .cache .airflow .hypothesis .mypy_cache .pytest_cache .ruff_cache dist docs/_build
