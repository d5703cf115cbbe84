# Every target prepares what it needs: a .venv with the locked dependencies, made once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup browser demo test soak bench bench-large check format lint types lock lock-check serve clean
setup: $(READY)

$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $(READY)

demo: $(READY)
	$(BIN)/batch-jobs run --file examples/external_loss.csv --task summarize --data-case external_loss --mode batch --sandbox --yes

# Chromium for the tests that look at pages: installed where this is root's machine, else they are skipped.
browser:
	$(PYTHON) scripts/browser.py

test: $(READY) browser
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not soak"

# The long proofs: kills, storage faults and simulated jobs by the thousand. About three quarters of an hour on two cores.
soak: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m soak --timeout 3600

# The product against the barest program for the same work and against its peers: ten minutes on an idle machine.
bench: $(READY)
	$(BIN)/python -m benchmarks

# Also the job of 1,000,000 rows.
bench-large: $(READY)
	$(BIN)/python -m benchmarks --large

check: format lint types lock-check test

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

lock: $(READY)
	$(BIN)/python scripts/lock.py

lock-check: $(READY)
	$(BIN)/python scripts/lock.py --check

serve: $(READY)
	$(BIN)/batch-jobs serve

clean:
	rm -rf .venv .mypy_cache .ruff_cache
