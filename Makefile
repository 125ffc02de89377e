# The verbs people type. Each sets up what it needs (a virtual environment in .venv, the build) on a fresh machine
# with gcc, make and Python 3.11 or later; none needs root.
#
#   make run          build, start resolverd in the foreground on port 5335, show a first answer
#   make test         every test this machine can run; says what it skipped and why
#   make test-interpreters  unit, property and asyncio's own tests on every other Python of this machine
#   make lint         ruff, cython-lint, mypy, stub check, spelling
#   make bench        all benchmarks, as ratios of interleaved runs [BENCH='-k tls'];  make bench-check: the short set
#                     with floors
#   make figures      measures them all and writes the tables of README.md (best on a machine that does nothing else)
#   make fuzz         every fuzz target, FUZZ_RUNS cases each (default 1,000,000)
#   make soak         resolverd at full load with faulty name servers for SOAK_SECONDS (default 1,800)
#   make scenarios    resolver scenarios  [DIR=folder] [ONLY=list] [FEATURES=a,b] [OUT=file.tsv]
#   make differential 10,000 questions to our daemon, Unbound and Knot Resolver  [NAMES=10000] [SEED=1]
#   make simulate     random programs of the loop on a simulated kernel, debug build [SEEDS=2000] [START=0] [KINDS=a,b]
#   make simulate-holes  shows that it finds mistakes that were made once, by putting them back [EVERY=n: each nth]
#   make worlds       the resolver in simulated worlds made from seeds [WORLDS=100000] [START=0]
#   make mutants      takes out one check at a time; some test must fail each time [ONLY='net: *'] [EVERY=n: each nth]
#   make properties   all tests of Hypothesis with a seed that is new each time [HYPOTHESIS_SEED=n] and
#                     HYPOTHESIS_FACTOR times as many examples (default 10)
#   make suites       test suites of aiohttp, anyio, uvicorn, asyncpg, websockets and httpx on both loops
#                     [SUITES="anyio ..."] [FULL=1]
#   make stress       the loop under stress at full size (a million connections), and 200,000 requests of the HTTP client,
#                     cancelled at random points, over HTTP/1.1 and HTTP/2; some fifteen minutes
#   make valgrind     a workload of the loop under valgrind: no block of ours definitely lost
#   make nightly      the long form of all checks (properties, fuzz, simulate, simulate-holes, worlds, mutants,
#                     differential, suites, stress, soak, valgrind, bench), one after the other whatever fails, and a
#                     summary [NIGHTLY="fuzz soak"] [NIGHTLY_SCALE=0.001], or the variables of the parts
#   make wheel        sdist, and the wheel made of it; installed and tried outside the checkout [FULL=1: unit tests too]
#   make wheels       wheels of each Python here for glibc 2.17 and musl, x86-64 and 64-bit ARM
#                     [TARGETS="manylinux2014_x86_64"]
#   make test-sanitize  unit and property tests, the loop under stress and on a simulated kernel, and fuzz targets, under
#                     the address and undefined-behaviour sanitizers with the debug checks [FULL=1: all integration tests
#                     and what is only Python, too] [SANITIZE_ON=3.12: on this Python]
#   make annotate FILE=corenet/core/poller.pyx   Cython's yellow page of one file
#   make docs         regenerate the pages made from code (limits, configuration)
#   make clean        remove builds and environments
#
# Build switches by environment: CORENET_DEBUG=1, CORENET_SANITIZE=address,undefined, CORENET_MODULES=pattern.
# PYTHON=/path/to/python3 chooses the interpreter of the main environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5335
FUZZ_RUNS ?= 1000000
SOAK_SECONDS ?= 1800
SOURCES := $(shell find corenet resolver -name "*.pyx" -o -name "*.pxd" -o -name "*.h" -o -path "resolver/*.py" 2>/dev/null)

.PHONY: run test test-unit test-system test-interpreters test-sanitize test-sanitize-unit \
	test-sanitize-rest lint bench bench-check figures fuzz soak scenarios differential suites simulate simulate-holes worlds mutants properties nightly stress valgrind wheel wheels annotate docs \
	clean help build build-debug
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

# --- set-up ----------------------------------------------------------------------------------------------------------

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip 'setuptools>=77' 'Cython>=3.1,<3.4'
	CORENET_MODULES=none $(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]'
	touch $@

$(VENV)/.built: $(VENV)/.installed setup.py $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

build: $(VENV)/.built

# --- verbs -----------------------------------------------------------------------------------------------------------

run: build
	$(BIN)/python -m resolver.daemon --port $(PORT) --show-example

# Two processes side by side: most tests keep one core busy.
UNIT := tests/unit tests/property tests/conformance/asyncio

test: build
	@$(BIN)/python tests/streams.py test-unit test-system

test-unit: build
	$(BIN)/python -m pytest -q $(UNIT)

test-system: build
	$(BIN)/python -m pytest -q -p no:cacheprovider tests $(addprefix --ignore=,$(UNIT))

test-interpreters:
	$(PYTHON) tests/interpreters.py run

test-sanitize: $(VENV)/.installed
	$(BIN)/python tests/sanitized.py $(if $(FULL),full)

# The two halves, for CI.
test-sanitize-unit test-sanitize-rest: $(VENV)/.installed
	$(BIN)/python tests/sanitized.py $(@:test-sanitize-%=%)

build-debug: $(VENV)/.installed
	CORENET_DEBUG=1 $(BIN)/python setup.py -q build --build-base build/debug --build-lib build/debug/lib

lint: build
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint corenet resolver tests/native
	$(BIN)/mypy
	$(BIN)/codespell README.md docs corenet resolver tests benchmarks

bench: build
	$(BIN)/python -m pytest -q benchmarks $(BENCH)

# A row that misses its floor is told, and shown like the others.
figures: build
	-$(BIN)/python -m pytest -q benchmarks
	$(BIN)/python benchmarks/figures.py

bench-check: build
	$(BIN)/python -m pytest -q benchmarks -m short

fuzz: build
	$(BIN)/python tests/fuzz/run.py --runs $(FUZZ_RUNS)

soak: build
	$(BIN)/python tests/soak.py --seconds $(SOAK_SECONDS)

scenarios: build
	@$(BIN)/python tests/conformance/scenarios/run.py $(if $(DIR),--dir '$(DIR)') $(if $(ONLY),--only '$(ONLY)') \
		$(if $(FEATURES),--features '$(FEATURES)') $(if $(OUT),--out '$(OUT)')

differential: build
	$(BIN)/python tests/conformance/differential.py $(if $(NAMES),--names $(NAMES)) $(if $(SEED),--seed $(SEED))

simulate: build-debug
	cd build/debug && CORENET_TEST_SLOWNESS=3 PYTHONPATH=$(CURDIR)/build/debug/lib $(CURDIR)/$(BIN)/pytest -q \
		-c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) -p no:benchmark -p no:cacheprovider $(CURDIR)/tests/simulation/loop
	cd build/debug && PYTHONPATH=$(CURDIR)/build/debug/lib $(CURDIR)/$(BIN)/python \
		$(CURDIR)/tests/simulation/loop/run.py --seeds $(or $(SEEDS),2000) --start $(or $(START),0) \
		$(if $(KINDS),--kinds $(KINDS))

simulate-holes: build-debug
	cd build/debug && PYTHONPATH=$(CURDIR)/build/debug/lib $(CURDIR)/$(BIN)/python \
		$(CURDIR)/tests/simulation/loop/holes.py $(if $(EVERY),--every $(EVERY))

worlds: build
	$(BIN)/python tests/simulation/dns/run.py --worlds $(or $(WORLDS),100000) --start $(or $(START),0)

mutants: build
	$(BIN)/python tests/mutants/run.py $(if $(ONLY),'$(ONLY)') $(if $(EVERY),--every $(EVERY))

# --hypothesis-seed is what Hypothesis itself names when a test fails.
properties: build
	seed=$${HYPOTHESIS_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "make properties HYPOTHESIS_SEED=$$seed HYPOTHESIS_FACTOR=$(or $(HYPOTHESIS_FACTOR),10)"; \
	CORENET_HYPOTHESIS_FACTOR=$(or $(HYPOTHESIS_FACTOR),10) \
		$(BIN)/python -m pytest -q -m hypothesis --hypothesis-seed=$$seed tests

nightly: build
	@$(BIN)/python tests/nightly/run.py --scale $(or $(NIGHTLY_SCALE),1) $(NIGHTLY)

suites: build
	$(BIN)/python tests/conformance/suites/run.py $(SUITES) $(if $(FULL),--full)

stress: build
	CORENET_TEST_SLOWNESS=10 CORENET_STRESS=$(or $(CORENET_STRESS),1) \
		$(BIN)/python -m pytest -q --durations=0 tests/integration/test_loop_stress.py \
		tests/integration/test_http_crowd.py

valgrind: build
	PYTHONPATH=$(CURDIR) $(BIN)/python tests/leaks.py

wheel: $(VENV)/.installed
	$(BIN)/python tests/wheel.py $(if $(FULL),full)

wheels: $(VENV)/.installed
	$(BIN)/python tests/wheels.py $(TARGETS)

annotate: $(VENV)/.installed
	CORENET_ANNOTATE=1 CORENET_MODULES=$(subst /,.,$(basename $(FILE))) $(BIN)/python setup.py -q build_ext --inplace --force
	@echo "see build/cython-release/$(basename $(FILE)).html"

docs: build
	$(BIN)/python docs/generate.py

clean:
	rm -rf build dist .venv .venv-* *.egg-info
	find corenet resolver -name '*.so' -delete
