# The commands of README.md and CONTRIBUTING.md. All of them install what they need into VENV, except
# that `make gpu` takes the Python at hand where its torch has CUDA.
#
#   PYTHON   makes the virtual environment                  (python3)
#   VENV     where it is                                    (.venv)
#   TORCH    what pip installs as torch, options included   (torch==2.13.0)
#   FASTINIT what pip installs as fastinit: a folder or a wheel  (.)
#   RESULTS  where `make gpu` writes                        (gpu-results)
#   PYTEST   arguments for pytest, such as PYTEST="-k uniform -x"
#   DEMO     arguments for the demo, such as DEMO="--layers 2"
#   SWEEP    arguments for the sweep, such as SWEEP="--only llama"
#   MAX_JOBS how many compilers may run at a time

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help venv demo test sweep lint docs dist bench quality engine processors sanitize instructions gpu clean

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_CUDA ?= torch==2.14.1
RESULTS ?= gpu-results
FASTINIT ?= .
PYTEST ?=
DEMO ?=
SWEEP ?=

BIN := $(abspath $(VENV))/bin
INSTALL := $(BIN)/pip install --quiet
# Never in isolation: the extension fits only the torch it was built with.
BUILD := $(INSTALL) --no-build-isolation

help: ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/'

venv: ## make the virtual environment, with torch and the build tools
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $(TORCH) "setuptools>=77" ninja

demo: venv ## build, and run examples/demo.py
	$(BUILD) "$(FASTINIT)[demo]"
	$(BIN)/python examples/demo.py $(DEMO)

# In tests/, so that `import fastinit` finds what was installed and not the source folder.
test: venv ## build, and run the tests
	$(BUILD) "$(FASTINIT)[test]"
	cd tests && $(BIN)/pytest $(PYTEST)

# Some twenty minutes on one core; SWEEP="--only llama timm" takes those with such words in their names.
sweep: venv ## hold `native` against every model of transformers, timm, torchvision: docs/models_sweep.md
	$(BUILD) "$(FASTINIT)[test,demo]"
	$(INSTALL) --no-deps timm "torchvision==0.28.*"  # that of torch 2.13
	cd tests && $(BIN)/python sweep.py --page ../docs/models_sweep.md $(SWEEP)

lint: venv ## ruff, mypy, stubtest, clang-format
	$(BUILD) "$(FASTINIT)[dev,test]"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	(cd tests && $(BIN)/mypy --config-file= --strict typed_use.py && $(BIN)/stubtest fastinit._C --allowlist stubtest.txt)
	find csrc tests tools -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' |
	  xargs $(BIN)/clang-format --dry-run -Werror

docs: venv ## the manual, in docs/_build/html; a warning is an error
	$(BUILD) "$(FASTINIT)[docs]"
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b doctest docs docs/_build/doctest
	echo "open docs/_build/html/index.html"

dist: venv ## the source distribution, and the wheel built from it, in dist/; checked
	$(INSTALL) build twine check-wheel-contents
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

bench: venv ## build in place, and measure against stock torch on the CPU
	$(INSTALL) matplotlib numpy scipy
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m benchmarks run --goals

quality: venv ## build in place, and a minute of TestU01, PractRand and laws at scale
	$(INSTALL) numpy scipy
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m tools.quality short

# These two need no torch: a compiler, and for the second g++ for the others and qemu-user.
engine: ## the engine's digests by g++ and clang, under sanitizers, and fuzzed; half an hour
	$(PYTHON) -m tools.engine plain contract address thread clang fuzz

# libstdc++ comes with libasan, which otherwise finds none to take exceptions from; Python's own memory
# is not searched for leaks; a request for more memory than there is fails, as it does without. Tests
# of how much memory there is, and how much is taken, would see what AddressSanitizer takes for itself.
SANITIZED := .venv-sanitize
sanitize: ## the CPU tests, the extension under AddressSanitizer and UndefinedBehaviorSanitizer; an hour
	$(MAKE) venv VENV=$(SANITIZED)
	FASTINIT_CUDA=0 FASTINIT_SANITIZE=1 $(SANITIZED)/bin/pip install --quiet --no-build-isolation ".[test]"
	cd tests && \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 OMP_WAIT_POLICY=passive \
	  ../$(SANITIZED)/bin/pytest -m "not timed" --ignore=test_models_memory.py \
	  --deselect=test_threads.py::test_without_memory_a_matrix_is_refused_and_untouched $(PYTEST)

processors: ## the engine's digests on aarch64 and riscv64, under qemu-user
	$(PYTHON) -m tools.engine aarch64 riscv64

instructions: venv ## build in place, and count the instructions of some fills; needs valgrind
	$(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m tools.instructions

# Builds in place, for the GPU at hand, and needs no package index where PYTHON has a CUDA torch.
# Every part has its limit, ten minutes in all; everything runs, and the failures are told at the end
# (124: out of time).
gpu: ## build with CUDA, run the CUDA tests and the CUDA benchmark, write to RESULTS
	@python="$(PYTHON)"
	if ! "$$python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
	  $(MAKE) venv VENV=.venv-gpu TORCH="$(TORCH_CUDA)"
	  .venv-gpu/bin/pip install --quiet pytest numpy scipy hypothesis mpmath matplotlib
	  python=.venv-gpu/bin/python
	fi
	mkdir -p "$(RESULTS)"
	failed=""
	part() { # NAME SECONDS COMMAND ...
	  local log="$(RESULTS)/$$1.log" status=0
	  timeout "$$2" "$${@:3}" > "$$log" 2>&1 || status=$$?
	  test $$status = 0 || failed+=" $$1 ($$status)"
	  tail -n 30 "$$log"
	}
	capability='import torch; print("%d.%d" % torch.cuda.get_device_capability())'
	export TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-$$("$$python" -c "$$capability")}"
	FASTINIT_CUDA=1 part build 180 "$$python" setup.py build_ext --inplace
	part machine 20 bash -c "nvidia-smi; '$$python' -c 'import fastinit; print(fastinit.build_info())'"
	part tests 170 "$$python" -m pytest -k "cuda and not cuda_build" --maxfail=20 \
	  --continue-on-collection-errors $(PYTEST)
	part benchmark 130 "$$python" -m benchmarks run --device cuda --goals --output "$(RESULTS)"
	for tool in memcheck racecheck initcheck; do
	  part "$$tool" 25 compute-sanitizer --tool "$$tool" --error-exitcode 1 \
	    "$$python" -m benchmarks.exercise
	done
	part ncu 25 ncu --clock-control none --set basic --section MemoryWorkloadAnalysis \
	  --section SchedulerStats --kernel-name regex:dense_kernel \
	  "$$python" -m benchmarks.exercise --large
	test -z "$$failed" || { echo "FAILED:$$failed" >&2; exit 1; }

clean: ## remove what was built, and the virtual environments
	rm -rf build dist docs/_build *.egg-info fastinit/_C*.so .venv .venv-gpu $(SANITIZED) .ci-venv gpu-results
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache
