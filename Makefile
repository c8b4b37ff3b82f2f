# make tables [CORES=N] [PROFILE=mini|smoke|paper]   the paper's tables, set-up included
# make figures  [CORES=N] [PROFILE=...]              the paper's figures
# make rebuttal [CORES=N] [PROFILE=...]              what its reviewers asked for and its authors replied
# make questions [CORES=N] [PROFILE=...]             when does freezing A cost something? docs/questions.md
# make all      [CORES=N] [PROFILE=...]              all of these, and what is beyond the paper
# make report   [CORES=N] [PROFILE=...]              all of it, with the runs and the verdicts, in one HTML file
# make tables SEEDS=6                                the same with six seeds: what is trained already stays
# make tables OVERRIDES="model.frozen_dtype=float32" every run changed, and every table says so; as for figures and the report
# make docs                                          this documentation as a site, in build/site; `make planner docs`: with a planner in it, after minutes
# make notebooks                                     notebooks/*.py as notebooks with their outputs
# make test-faults                                   processes killed, disks full, clocks wrong: about ten minutes
# make test-slurm                                    profiles/slurm on a real Slurm: about ten minutes; skipped without one
# make test-cuda                                     the library on this machine's GPU; skipped without one
# make audit                                         bandit, and known vulnerabilities of the packages (needs the network)
# make test-wheel                                    the library as a wheel in an empty environment (fetches PyTorch)
# make test-peft                                     PEFT's own tests of custom models, on LoRA-FA (fetches its source): two minutes
# make test-slow                                    what takes tens of seconds each: about six minutes
# make test-versions                                 the library on the oldest and the newest packages that it allows
# make test-distributed                              two processes (gloo) beside one, on the CPU: five minutes
# make test-hub                                      the paper profile from a hub on loopback, in small, with its faults
# make check   [PROFILE=...]                         whether the numbers of the finished tables are sane
# make readme  [PROFILE=...]                         README.md's tables and numbers, from those of the profile
# make test | test-integration | lint | format | lock | clean
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PROFILE ?= mini
SEEDS ?=
OVERRIDES ?=
CONFIG = profile=$(PROFILE) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(OVERRIDES),overrides="$(OVERRIDES)")
VENV := .venv
BIN := $(abspath $(VENV))/bin
RUN := PATH="$(BIN):$$PATH"
# What an extra has installed. `dev` has them all, but for `audit`.
with = $(VENV)/with-$(if $(and $(filter-out audit,$(1)),$(wildcard $(VENV)/with-dev)),dev,$(1))

.PHONY: tables figures rebuttal questions all report docs planner notebooks test test-integration test-slow test-distributed test-faults test-hub test-peft test-versions test-wheel test-slurm test-cuda audit lint format lock check readme clean

tables figures rebuttal questions all: $(call with,pipeline)
	$(RUN) snakemake --cores $(CORES) --config $(CONFIG) -- $@

report: $(call with,pipeline)
	$(RUN) snakemake --cores $(CORES) --config $(CONFIG) -- overview
	$(RUN) snakemake --quiet all --report results/$(PROFILE)/report.html --config $(CONFIG) -- overview
	@echo "The report is results/$(PROFILE)/report.html"

docs: $(call with,docs)
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# Minutes, so it is computed again only where the library has changed.
planner: build/planner.html

build/planner.html: $(shell find lorafa -name "*.py" -o -name "*.html") | $(call with,docs)
	mkdir -p build
	$(RUN) python -m lorafa.memory --html $@ --model llama-3-8b

notebooks: $(call with,notebooks)
	$(RUN) jupytext --quiet --to ipynb notebooks/*.py
	$(RUN) jupyter execute --inplace notebooks/*.ipynb

test: $(call with,dev)
	$(RUN) python -m pytest -m "not (integration or slow or distributed or faults or hub or slurm)"

test-integration: $(call with,dev)
	$(RUN) python -m pytest -m "integration and not slow"

test-slow: $(call with,dev)
	$(RUN) python -m pytest -m slow

test-distributed: $(call with,dev)
	$(RUN) python -m pytest -m distributed --numprocesses=0

# One after the other: they measure seconds, and kill.
test-faults: $(call with,dev)
	$(RUN) python -m pytest tests/faults --numprocesses=0

test-slurm: $(call with,dev)
	$(RUN) python -m pytest tests/slurm --numprocesses=0

# With whichever Python has torch: machines with a GPU have it installed.
test-cuda:
	$(PYTHON) -m pytest -o addopts="-q -rs --import-mode=importlib" tests/cuda

audit: $(call with,audit)
	$(RUN) bandit --quiet --recursive --configfile pyproject.toml --severity-level medium lorafa pipeline benchmarks docs
	$(RUN) pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

test-peft: $(call with,dev)
	$(RUN) python tests/peft

test-versions: $(call with,dev)
	$(RUN) python tests/versions

# An environment of its own, so that no other is needed.
test-wheel:
	$(PYTHON) tests/wheel

test-hub: $(call with,dev)
	$(RUN) python -m pytest tests/hub

lint: $(call with,dev)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile pipeline/rules
	$(RUN) snakemake --lint

format: $(call with,dev)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) snakefmt Snakefile pipeline/rules

# An extra of pyproject.toml, at the versions of requirements.lock. A change of either installs it anew.
$(VENV)/with-%: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed")'
	test -x "$(BIN)/python" || $(PYTHON) -m venv $(VENV)
	@echo "Installing what '$*' needs into $(VENV): some minutes, and up to 2.4 GiB"
	"$(BIN)/python" -m pip install --progress-bar on --constraint requirements.lock --editable ".[$*]"
	touch $@

# Resolves pyproject.toml afresh; environment.yml follows by hand, and a test compares them.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet --editable ".[dev,audit]"
	(echo "# Every package of the tested environment, exact. Regenerate with: make lock"; \
	 $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu//') > requirements.lock
	rm -r $(VENV)-lock

# Fails where a number of the finished tables is not sane.
check: $(call with,pipeline)
	$(RUN) python -m pipeline.check profile=$(PROFILE)

# The generated parts of README.md, from the profile's tables and records.
readme: $(call with,pipeline)
	$(RUN) python -m pipeline.readme profile=$(PROFILE)

clean:
	@printf "Delete results/mini and results/smoke, with all runs? [y/N] "; read answer; \
	if [ "$$answer" = y ]; then rm -rf results/mini results/smoke .snakemake; fi
