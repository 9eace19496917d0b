# Two commands do everything on a fresh machine: `make demo` and `make test`. `make app` opens the app.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test app lint bench
demo: .venv/app
	$(BIN)/python -m lab run --preset mini --pairs 200

app: .venv/app
	$(BIN)/python app.py

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# 14 minutes on two quiet cores; writes bench/RESULTS.md.
bench: .venv/app
	$(BIN)/python -m bench

lint: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/app: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

# The browser tests drive the distribution's Chromium; fonts so that Hangul shows.
.venv/dev: .venv/app requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium fonts-noto-cjk)
	touch $@
