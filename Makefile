# Each target is self-sufficient on a fresh machine: it makes .venv, installs, does the job.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DOCS_READY = $(VENV)/.docs

.PHONY: run test browser lint docs clean

run: $(READY)
	$(BIN)/advcore run experiments/trades_gradmatch.yaml --overwrite

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# needs chromium and chromedriver: apt-get install -y chromium chromium-driver
browser: $(READY)
	$(BIN)/python -m pytest -m browser

lint: $(READY)
	$(BIN)/ruff check .

docs: $(DOCS_READY)
	$(BIN)/python docs/site/build.py build/docs

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	@touch $(DOCS_READY)

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV) runs build *.egg-info
