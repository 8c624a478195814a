# make demo | run | test | replay-year | bench | bench-batch | accuracy | install | lint        (see README.md)
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
AZURITE := .azurite/node_modules/azurite/package.json

.PHONY: help install run demo test replay-year bench bench-batch bench-training accuracy lint

help:
	@echo "make demo     a tour on real data: loads, trains, judges, and stops by itself"
	@echo "make run      the service on http://localhost:7071, with Azurite as its storage"
	@echo "make test     installs what is needed and runs every test"
	@echo "make replay-year   a year lived through day by day, with and without retraining and feedback: a page with plots"
	@echo "make bench    latencies side by side with prophet and scikit-learn, and tables a minute that are trained"
	@echo "make bench-batch   tables a second of whole fleets, and how that grows"
	@echo "make bench-training   its last part alone: tables a minute by family, and what a fleet takes"
	@echo "make accuracy DATA=DIR   scores every detector on labelled data and writes the README's table"
	@echo "make install  the environment alone (.venv and Azurite)"
	@echo "make lint     ruff and mypy"

install: .venv/ready $(AZURITE)

.venv/ready: requirements.txt requirements-dev.txt
	@python=$$(for p in python3.13 python3 python; do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null \
		&& { echo $$p; break; }; done); \
	if [ -z "$$python" ]; then \
		echo "Python 3.13 is needed (python3 is $$(python3 --version 2>&1 | tail -1)). Install it; pyenv and uv read .python-version."; \
		exit 2; \
	fi; \
	echo "Installing the Python environment (a minute or two the first time) ..."; \
	$$python -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt && touch $@

$(AZURITE):
	@command -v node >/dev/null && command -v npm >/dev/null \
		|| { echo "Node 18 or newer with npm is needed for Azurite, the storage emulator: https://nodejs.org"; exit 2; }
	@echo "Installing Azurite, the storage emulator ..."
	@npm install --prefix .azurite --no-save --no-package-lock --no-audit --no-fund --loglevel=error azurite@3.35.0

run: install
	@$(PYTHON) -m tools.local_host

demo: install
	@$(PYTHON) -m tools.demo

test: install
	@$(PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile

replay-year: install
	@$(PYTHON) -m tools.replay_year $(if $(DATA),--data "$(DATA)") $(if $(ALGORITHM),--algorithm $(ALGORITHM))

bench: install
	@$(PYTHON) -m tools.bench
	@$(PYTHON) -m tools.bench_detectors
	@$(PYTHON) -W ignore -m tools.bench_training

bench-batch: install
	@$(PYTHON) -W ignore -m tools.bench_batch

bench-training: install
	@$(PYTHON) -W ignore -m tools.bench_training

accuracy: install
	@$(PYTHON) -m tools.accuracy --data "$(DATA)" --readme

lint: install
	@.venv/bin/ruff check .
	@.venv/bin/mypy
