# Everything lives in .venv; a second call installs nothing. To use another interpreter: make clean run PYTHON=python3.13
PYTHON ?= python3
CONFIG ?= configs/face_mb01.py
# Further flags of the command that runs, e.g. make run ARGS=--workdir=runs/a
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c requirements.lock
# What pip compiles on one core, this does on all; some packages carry files that no Python 3 compiles.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib > /dev/null 2>&1 || true

.PHONY: help run test docs bench gpu-program plans lock clean

help:
	@echo "make run     train MobileNetV2 x0.1 with TVConv on the embedded faces, verify, print where everything lies"
	@echo "make test    lint and run the tests"
	@echo "make docs    build the documentation site in docs/_build/html"
	@echo "make bench   speed of the operator and of a training step, beside a PyTorch baseline"
	@echo "make gpu-program  bytes and kernels of a step compiled for a GPU, beside their bounds"
	@echo "make plans   the step compiled for a GPU and for 1 to 64 TPU chips: docs/appendix/plan.md"
	@echo "make lock    resolve requirements.lock again"
	@echo "make clean   remove .venv and caches"

run: .venv/.base
	@$(if $(ARGS),,echo "The embedded faces: four minutes on two cores, about 91 % at the end. When TVConv is ahead, and when not: docs/lead.md")
	@launch/cpu_env.sh $(BIN)/python -m tvconv_jax.main --config=$(CONFIG) $(ARGS)

test: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(ARGS)

# Every page is executed again, since the package may have changed.
docs: .venv/.docs
	@rm -rf docs/_api docs/_build
	@$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

bench: .venv/.test
	@launch/cpu_env.sh $(BIN)/python -m tvconv_jax.bench operator $(ARGS)
	@launch/cpu_env.sh $(BIN)/python -m tvconv_jax.bench train $(ARGS)
	@launch/cpu_env.sh $(BIN)/python -m tvconv_jax.bench segmentation $(ARGS)

# Neither needs a device. Each plan takes minutes; the same command goes on with what is missing.
gpu-program: .venv/.plan
	@.venv/plan/bin/python -m tvconv_jax.bench.gpu_program $(ARGS)

plans: .venv/.plan
	@.venv/plan/bin/python -m tvconv_jax.bench.plan_table $(ARGS)

.venv/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: $(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.base: .venv/.made pyproject.toml requirements.lock
	@echo "Installing into .venv (a few minutes the first time) ..."
	@$(PIP) -e '.[train]'
	@$(COMPILE)
	@touch $@

# These hold the base package, so `make run` after them installs nothing; the tests' environment builds the site, too.
.venv/.docs: .venv/.made pyproject.toml requirements.lock
	@echo "Installing into .venv with what the site needs (a few minutes the first time) ..."
	@$(PIP) -e '.[docs]'
	@$(COMPILE)
	@touch .venv/.base $@

.venv/.test: .venv/.made pyproject.toml requirements.lock
	@echo "Installing into .venv with what the tests need (a few minutes the first time) ..."
	@$(PIP) -e '.[docs,test]'
	@$(COMPILE)
	@touch .venv/.base .venv/.docs $@

# Plugins of GPUs and TPUs, which JAX would look for devices with in every other command.
.venv/.plan: .venv/.made pyproject.toml requirements.lock
	@echo "Installing XLA's compilers into .venv/plan (a few minutes the first time) ..."
	@$(PYTHON) -m venv .venv/plan
	@$(PIP:$(BIN)/%=.venv/plan/bin/%) -e '.[plan-gpu,plan-tpu]'
	@touch $@

# uv resolves for several Python versions at once, which pip cannot. CUDA's packages are torch's to pin.
lock: .venv/.made
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	@$(BIN)/uv pip compile --universal --python-version 3.11 --fork-strategy requires-python --extra docs --extra test --upgrade \
	  --no-header --no-annotate --quiet pyproject.toml | grep -vE '^(nvidia-|cuda-|triton)' > requirements.new
	@{ sed -n '/^#/p' requirements.lock; cat requirements.new; } > requirements.tmp
	@mv requirements.tmp requirements.lock && rm requirements.new

clean:
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info build docs/_api docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
