# make demo: set up, and run the main job on real footage.  make test: set up, check, and run every test.
# make check: lint, format, types, layers; under a minute.  make docs: write the generated pages.
# make coverage: the tests once more, counting lines.  make bench: measure.  make torture: kill everything.
# make gpu-check: what only a GPU can show.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
FOOTAGE ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup demo test check browser coverage docs bench torture gpu-check clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Winnow needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --no-compile --no-deps --requirement requirements.lock
	.venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	.venv/bin/python -m pipelines.demo out/demo

test: setup browser
	@set -e; began=$$(date +%s); $(MAKE) --no-print-directory check; checked=$$(date +%s); \
	.venv/bin/python -m pytest -q -n 2 --dist loadfile; ended=$$(date +%s); \
	echo "make test: checks $$((checked - began)) s, tests $$((ended - checked)) s"

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports

# The tests of pages want a Chromium. WINNOW_WITHOUT_BROWSER=1 leaves them out.
FIND_CHROMIUM = from playwright.sync_api import sync_playwright as p; from tests.pipelines.inspector.browser import chromium; \
  w = p().start(); found = chromium(w); w.stop(); raise SystemExit(not found)

browser: setup
	@[ -n "$$WINNOW_WITHOUT_BROWSER" ] || .venv/bin/python -c '$(FIND_CHROMIUM)' || { [ "$$(id -u)" = 0 ] \
	  && command -v apt-get >/dev/null && echo "installing chromium for the tests of pages" && apt-get -qq update \
	  && apt-get -qq -y install --no-install-recommends chromium >/dev/null 2>&1; } \
	  || { echo "no Chromium for the tests of pages, and it cannot be installed from here: as root, apt-get install chromium;" \
	  "or .venv/bin/playwright install chromium; or leave these tests out: WINNOW_WITHOUT_BROWSER=1 make test"; exit 1; }

# Counting costs the tests about a tenth of their time, so it is a run of its own. Child processes are not counted.
coverage: setup
	.venv/bin/coverage run -m pytest -q
	.venv/bin/coverage report

docs: setup
	.venv/bin/python -m docs.generate

# measured tables; FOOTAGE=FOLDER measures on your own single-shot clips instead of the sample videos
bench: setup
	.venv/bin/python -m tests.benchmarks $(FOOTAGE)

# kills of everything at seeded moments, on disk and on an S3 server: most of an hour.  One run again: SEED=17.  Fewer: RUNS=10
torture: setup
	.venv/bin/python -m tests.torture $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS))

# at most eight minutes on one NVIDIA GPU: rows on the screen, and in out/gpu-check.md and .json
gpu-check: setup
	.venv/bin/python -m tests.gpu_check

clean:
	rm -rf out .venv
