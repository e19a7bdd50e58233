# The everyday commands. `make` or `make help` shows them; each is a line of shell that works without make, too.
PYTHON := .venv/bin/python
SCRIPTS := start.sh topic.sh .ci/run tests/run.sh benchmarks/run.sh

.DEFAULT_GOAL := help
.PHONY: help setup run test unit lint types fuzz bench wheel

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install Python's packages, the Kafka broker and Spark's connector
	./start.sh setup

run:  ## start everything and the client in this terminal; Ctrl-C stops it
	./start.sh

test:  ## run every test, about 20 minutes on 2 cores
	tests/run.sh

unit:  ## run the tests that need no Kafka
	tests/run.sh tests/unit

lint:  ## check the style of Python and of shell scripts
	.venv/bin/ruff check .
	.venv/bin/shellcheck $(SCRIPTS)

types:  ## check the types
	.venv/bin/mypy

fuzz:  ## send the app broken and odd requests for some minutes
	$(PYTHON) -m tests.fuzz.ingest

bench:  ## measure everything anew, for benchmarks/REPORT.md
	benchmarks/run.sh

wheel:  ## build a wheel into dist/
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .
