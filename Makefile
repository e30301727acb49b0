# Every target sets up .venv by itself; nothing needs to be installed beforehand but Python 3.10+.

BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-long check bench docs clean

demo: $(READY)  ## Compile, check and measure a real trained model
	@$(BIN)/python examples/demo.py

test: $(READY)  ## The default tests: a few minutes
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-long: $(READY)  ## All tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "long or not long"

check: $(READY)  ## Style, types, layers
	@scripts/check

bench: $(READY)  ## Size, loading and memory of a few models (docs/startup.md)
	@$(BIN)/python benchmarks/models.py

docs: $(READY)  ## The manual as a site, in build/docs
	@$(BIN)/pip install --quiet -c scripts/constraints.txt -e ".[docs]"
	@$(BIN)/python -m sphinx -q -W docs build/docs

clean:  ## Remove what was made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml scripts/setup scripts/constraints.txt
	@scripts/setup
