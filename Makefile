# Every target does its own set-up; the first one takes a few minutes to download PyTorch.
PYTHON ?= python3
BIN := .venv/bin

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(BIN)/ready  ## street scenes in, Table 1 and Figure 2 out: about ten minutes on two cores
	$(BIN)/python launch/submit.py grid=table1 config=demo cluster=local
	$(BIN)/python launch/report.py grid=table1 config=demo

test: $(BIN)/ready  ## all tests that this machine can run
	$(BIN)/python -m pytest --numprocesses=4

test-quick: $(BIN)/ready  ## the unit tests: about a minute on two cores
	$(BIN)/python -m pytest --numprocesses=2 -m "not slow"

check: $(BIN)/ready  ## lint, format, types, contracts, packages that fit together
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check

dashboard: $(BIN)/ready  ## watch the runs in runs/ in a browser
	$(BIN)/python launch/dashboard.py

slurm-up:  ## a real SLURM cluster of four nodes on this machine (root, Debian's packages)
	slurm/cluster.sh up nodes=4

slurm-down:  ## stop it and leave nothing behind
	slurm/cluster.sh down

dashboards: $(BIN)/ready  ## Grafana's JSON, after a change of configs/monitoring/panels.yaml
	$(BIN)/python -m launch.dashboards.grafana

lock: $(BIN)/ready  ## pin pyproject.toml's dependencies again, with hashes, for every platform
	$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet uv
	.venv/lock/bin/uv pip compile pyproject.toml --extra dev --extra deepspeed --universal --python-version 3.11 \
	  --generate-hashes --no-header --upgrade --quiet -o requirements.txt

clean:  ## remove the environment, but no data and no runs
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The lock is complete: --no-deps. setuptools is in it, so that installing the project itself downloads nothing unpinned.
$(BIN)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: help demo test test-quick check dashboard slurm-up slurm-down dashboards lock clean
