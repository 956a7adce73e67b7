# make demo: set up, and run the main job on real footage.  make test: set up, and run every test.  make bench: measure.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
FOOTAGE ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup demo test browser bench clean

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
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/python -m pytest -q

# the tests of pages want Debian's chromium; where it is neither there nor can be installed, they say so and are skipped
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && echo "installing chromium for the tests of pages" && apt-get -qq update \
	  && apt-get -qq -y install --no-install-recommends chromium >/dev/null 2>&1; } \
	  || echo "no chromium: the tests of pages are skipped"

# measured tables; FOOTAGE=FOLDER measures on your own single-shot clips instead of the sample videos
bench: setup
	.venv/bin/python -m tests.benchmarks $(FOOTAGE)

clean:
	rm -rf out .venv
