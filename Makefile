# Everything works from a clean clone with Python >= 3.10 and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: build demo test lint bench cubins sanitize clean

build: $(VENV)/built

# The stamp is newer than everything compiled or installed.
$(VENV)/built: setup.py pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc kernels -name '*.cpp' -o -name '*.h' -o -name '*.cu*')
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel cmake ninja pybind11 \
	  'triton>=3.2; sys_platform == "linux"'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test,lint]'
	touch $@

demo: build
	rm -rf $(RUN)
	$(BIN)/kgfast train examples/world.yaml --out $(RUN)
	$(BIN)/kgfast ask $(RUN) "What is officially spoken in the country governed from Belgrade?" --k 3
	$(BIN)/kgfast predict $(RUN) --relation borders --tail Germany --known mark --k 12

test: build
	$(BIN)/python -m pytest

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# BASE=<commit> times that commit beside this one, in turns; CASES names some.
bench: build
ifdef BASE
	$(BIN)/python -m benchmarks.compare $(BASE) $(if $(CASES),--cases $(CASES))
else
	$(BIN)/python -m pytest benchmarks
	$(BIN)/python -m benchmarks.plot
endif

# Every Triton kernel for every GPU architecture: no spilled registers, no growth beyond the table. Minutes the first time.
cubins: build
	$(BIN)/python -m kgfast.kernels.compile.lane --check tests/kernels/registers.json

# The compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: build
	tests/kernels/sanitize.sh $(BIN)/python

clean:
	rm -rf build runs $(VENV)
