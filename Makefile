# edgepress: four words to remember.
#   make demo    the built-in student becomes 4-bit and 8-bit GGUF and ONNX files, measured, with reports in out/
#   make test    all tests, on all cores
#   make check   style, types, import directions, documentation in step with the program
#   make test-gpu  what needs an NVIDIA GPU (with tensorrt or tensorrt-rtx, and pycuda)
#   make venv    only set up .venv with everything

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# llama.cpp's AMX kernels crash when GCC compiles them: it drops all but the first bytes of the tile configuration
# (ggml-org/llama.cpp issue 20824, pull request 26954). x86 compilers take these flags, others do not need them.
AMX_OFF := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
AMX_OFF := $(shell $(CXX) $(AMX_OFF) -fsyntax-only -x c++ /dev/null 2>/dev/null && echo '$(AMX_OFF)')
STUDENT ?= smollm2-135m-instruct
RECIPES ?= 4bit 8bit

.PHONY: demo test test-gpu check venv docs clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade -c constraints.txt pip setuptools wheel
	CMAKE_ARGS="$$CMAKE_ARGS -DCMAKE_C_FLAGS='$(AMX_OFF)' -DCMAKE_CXX_FLAGS='$(AMX_OFF)'" \
		$(BIN)/python -m pip install -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(STAMP)
	for recipe in $(RECIPES); do \
		$(BIN)/edgepress run $(STUDENT) --recipe $$recipe --out out/$$recipe || exit $$?; \
	done
	printf 'What is the capital of Japan?\n' > out/prompts.txt
	for recipe in $(RECIPES); do \
		$(BIN)/edgepress generate out/$$recipe/gguf --prompts out/prompts.txt --tokens 40 || exit $$?; \
		$(BIN)/edgepress generate out/$$recipe/onnx --prompts out/prompts.txt --tokens 40 || exit $$?; \
	done
	@for recipe in $(RECIPES); do echo "report: out/$$recipe/report.html"; done

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test-gpu: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m edgepress.cli.reference --check docs/commands.md

docs: $(STAMP)
	$(BIN)/python -m edgepress.cli.reference --write docs/commands.md

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache
