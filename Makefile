# Each target is self-sufficient on a fresh machine: it makes .venv, installs, does the job.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DOCS_READY = $(VENV)/.docs

# What is imported is compiled once: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test pages browser lint docs lock newest wheel tag clean

run: $(READY)
	$(BIN)/advcore run experiments/trades_gradmatch.yaml --overwrite

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# Write every page and picture that is generated: from records, from the code, from the tests.
pages: $(READY)
	$(BIN)/python benchmarks/pages
	$(BIN)/python docs/site/settings_page.py
	$(BIN)/python docs/site/architecture.py
	$(BIN)/python docs/site/gallery.py
	$(BIN)/python docs/site/badges.py
	$(BIN)/python tests/faults/cases.py

# needs chromium and chromedriver: apt-get install -y chromium chromium-driver
browser: docs
	$(BIN)/python -m pytest -m browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# Renew constraints.txt: the newest releases that setup.cfg allows, for every platform and Python 3.11 and later.
lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python tools/lock.py

# Run the tests with the newest releases that setup.cfg allows, beside those of constraints.txt.
newest: $(READY)
	$(BIN)/python tools/newest.py

# Build the source release, and the wheel from it, into build/dist.
wheel: $(READY)
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir build/dist

# Tag the present commit as a release, if it is one; tools/tag.py says what is checked.
tag: $(READY)
	$(BIN)/python tools/tag.py

docs: $(DOCS_READY)
	$(BIN)/python docs/site/build.py build/docs

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $(DOCS_READY)

$(READY): setup.py setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) runs build *.egg-info
