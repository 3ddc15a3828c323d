PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
OLDEST ?= .venv-oldest
LMMS_EVAL := $(VENV)-lmms-eval
PYTEST_ARGS ?= -n auto --dist loadfile -m "not slow and not gpu and not weights"

.PHONY: demo test test-oldest lint docs bench bench-gpu study-quick study study-anew study-full clean

demo: $(VENV)/.demo
	$(BIN)/dynfocus compress "$$($(BIN)/python -c 'from dynfocus_video.clips import demo_clip; print(demo_clip())')" \
		--fps 5 --out $(OUT)

test: $(VENV)/.dev $(LMMS_EVAL)/.installed
	$(BIN)/pytest $(PYTEST_ARGS)
	$(BIN)/pytest $(PYTEST_ARGS) -m "not compile and not slow" tests/property tests/golden \
		--jaxtyping-packages=dynfocus_connector,beartype.beartype
	$(LMMS_EVAL)/bin/python -m pip install --quiet --no-deps --force-reinstall .
	$(LMMS_EVAL)/bin/python -m pytest $(PYTEST_ARGS) -m "lmms_eval and not slow" tests/integration/lmms_eval

test-oldest: $(OLDEST)/.dev
	$(OLDEST)/bin/pytest $(PYTEST_ARGS) tests/integration/transformers tests/integration/llava

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --config-file docs/.mkdocs/mkdocs.yml

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmark.speed $(BENCH_ARGS)
	$(BIN)/python tests/benchmark/configurations.py
	$(BIN)/python -m tests.benchmark.topk_variance --write
	$(BIN)/python tests/benchmark/relaxation.py
	$(BIN)/python tests/benchmark/embedded_encoder.py
	$(BIN)/python tests/benchmark/long_file.py
	$(BIN)/dynfocus cost --max-tokens 20000
	$(BIN)/python -m tests.benchmark.streaming
	$(BIN)/python -m tests.benchmark.hosts_pay
	DYNFOCUS_HOSTS_TABLE=docs/results/hosts.md $(BIN)/pytest -q tests/integration/transformers

bench-gpu: $(VENV)/.dev
	$(BIN)/python -m tests.benchmark.speed --device cuda --dtype bfloat16 $(BENCH_ARGS)
	$(BIN)/dynfocus cost --device cuda

out/planted/anew/pretrained: | $(VENV)/.dev
	$(BIN)/python -m dynfocus_reference.planted.pretraining

study-anew: out/planted/anew/pretrained
study-quick study study-anew study-full: $(VENV)/.dev
	$(BIN)/python -m dynfocus_reference.planted.study $(patsubst study-%,%,$(@:study=study-main))
	$(BIN)/python -m dynfocus_reference.planted.page

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# lmms_eval wants older packages than everything else: they and our wheel go into an environment that lies over the other.
$(LMMS_EVAL)/.installed: $(VENV)/.dev
	$(PYTHON) -m venv $(LMMS_EVAL)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(LMMS_EVAL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(LMMS_EVAL)/bin/python -m pip install --quiet ".[lmms-eval]"
	touch $@

$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

$(OLDEST)/.dev: pyproject.toml  # every requirement at its lower bound
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(LMMS_EVAL) $(OLDEST) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
