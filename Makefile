# `make run` shows noise becoming a picture of words; `make test` checks everything. Both set themselves up in $(VENV).
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run studio test test-all lint bench bench-solvers data docs

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
CORE := $(VENV)/.safelight-core
DEV := $(VENV)/.safelight-dev
BROWSER := $(VENV)/.safelight-browser
OUT ?= out/first-light
PROMPT ?= three red apples on a blue background
# `test` tries the same examples of each property every time, so that a change is judged by itself; `test-all` draws new ones.
# Two workers with one thread each: the tests' results do not depend on how many cores there are.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist worksteal

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 18

run: $(CORE) ## a picture of words with its film, its steps and its recording, from the trained model that ships
	@$(PY) -m safelight generate "$(PROMPT)" --out $(OUT)/picture.png --gif $(OUT)/steps.gif --show-steps --trace $(OUT)/trace.safetensors

studio: $(CORE) ## the studio in the browser: every run is a recording
	@$(PY) -m safelight studio

test: lint ## lint, types, floors, and the fast tests
	@$(PYTEST) -m "not slow" --hypothesis-profile ci

test-all: lint $(BROWSER) ## the same with the slow tests, the studio in a real browser among them
	@$(PYTEST)

lint: $(DEV) ## style, types, import floors, dependencies
	@$(VENV)/bin/ruff check --quiet --output-format concise .
	@$(VENV)/bin/ruff format --check . > $(VENV)/format.log 2>&1 || \
	  { grep -e '-->' $(VENV)/format.log; echo "not formatted: run '$(VENV)/bin/ruff format .'"; exit 1; }
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-cache > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(VENV)/bin/deptry src > $(VENV)/deptry.log 2>&1 || { cat $(VENV)/deptry.log; exit 1; }
	@echo "lint: clean"

bench: $(DEV) ## speed beside peers, in one run
	@for script in benchmarks/*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(PY) $$script; done

# azula and k-diffusion ask for torchvision, which their samplers do not need.
bench-solvers: $(DEV) ## how exact the samplers are, beside their peers, on fresh problems (SOLVERS="--mixtures 40 --seed 1")
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps azula==0.11.1 k-diffusion==0.1.1.post1
	@OMP_NUM_THREADS=1 $(PY) benchmarks/solvers.py $(SOLVERS)

data: $(CORE) ## install Fashion-MNIST where the system can
	@$(PY) -m safelight data fetch fashion-mnist

docs: $(DEV) ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# One stamp a set of packages: made again when what it was made from changes, or when the environment is new.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(PY)
	@$(call install,.)
	@touch $@

$(BROWSER): | $(PY)
	@command -v chromium > /dev/null || \
	  { echo "installing chromium, for the tests of the studio"; apt-get install -y -q --no-install-recommends chromium > $(VENV)/apt.log 2>&1; } || \
	  { tail -n 3 $(VENV)/apt.log; echo "no chromium: install it, then run this again"; exit 1; }
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(PY)
	@$(call install,.[dev])
	@touch $@ $(CORE)

# A dot a package, so that a slow line shows that something happens; pip's own words only when it fails.
install = echo "setting up $(VENV) (once; minutes on a slow line)"; \
  $(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '$(1)' 2>$(VENV)/pip.err \
  | awk '/^(Collecting|Requirement)/ {printf "."; fflush()} /^Installing collected/ {printf " installing"; fflush()}' \
  || { echo; cat $(VENV)/pip.err; exit 1; }; echo " done"
