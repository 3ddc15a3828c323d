PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
OLDEST ?= .venv-oldest
PYTEST_ARGS ?= -n auto --dist loadfile -m "not slow and not gpu and not weights"

.PHONY: demo test test-oldest lint docs bench clean

demo: $(VENV)/.demo
	$(BIN)/dynfocus compress "$$($(BIN)/python -c 'from dynfocus_video.clips import demo_clip; print(demo_clip())')" \
		--fps 5 --out $(OUT)

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)
	$(BIN)/pytest $(PYTEST_ARGS) tests/property tests/golden --jaxtyping-packages=dynfocus_connector,beartype.beartype

test-oldest: $(OLDEST)/.dev
	$(OLDEST)/bin/pytest $(PYTEST_ARGS) tests/integration/transformers tests/integration/llava

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --config-file docs/.mkdocs/mkdocs.yml

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmark/configurations.py
	$(BIN)/python -m tests.benchmark.topk_variance --write
	$(BIN)/python tests/benchmark/relaxation.py
	$(BIN)/python tests/benchmark/embedded_encoder.py
	$(BIN)/python tests/benchmark/long_file.py
	$(BIN)/python -m tests.benchmark.hosts_pay
	DYNFOCUS_HOSTS_TABLE=docs/results/hosts.md $(BIN)/pytest -q tests/integration/transformers

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

$(OLDEST)/.dev: pyproject.toml  # every requirement at its lower bound
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
