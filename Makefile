# Two commands work alone on a fresh machine with Python >= 3.11, make and a package index: `make demo` and `make test`.
# The site (`make docs`) asks npm for one script besides, and is built without it where there is no npm.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two busy threads must not spin while they wait for each other.
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false
# mkdocs-material's farewell to mkdocs; why it is used all the same stands in mkdocs.yml.
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo robustness-demo checkpoints test test-slow test-oldest test-extras test-all lint types bench bench-report bench-smoke clean install browser npm docs docs-serve release

demo: install
	$(BIN)/synco-hub demo

# A linear classifier on fractals under 15 corruptions and 7 attacks: table and figure.
robustness-demo: install
	$(BIN)/synco-hub robustness-demo

# What ships with the package, made anew; the lines that it prints belong into synco_hub/zoo.py.
checkpoints: install
	$(BIN)/python docs/make_checkpoints.py

test: lint types browser npm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	$(MAKE) bench-smoke

# Everything that runs without a GPU or a network: half an hour more than `make test`.
test-all: test test-slow test-oldest test-extras

test-slow: install browser npm
	$(BIN)/python -m pytest -n 2 -m "slow and not gpu and not network" tests/docs/test_notebooks.py
	$(BIN)/python -m pytest -m "slow and not gpu and not network" --ignore tests/docs/test_notebooks.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

# The Space is tested in Debian's browser. Where it cannot be installed those tests are skipped, or fail if CI is set.
browser:
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" != 0 ]; then echo "no chromium, and only root can install it: the browser tests cannot run"; \
	elif ! command -v apt-get >/dev/null; then echo "no chromium and no apt-get: the browser tests cannot run"; \
	else apt-get -o Acquire::Retries=3 update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -qq -y chromium >/dev/null \
		|| echo "chromium could not be installed: the browser tests cannot run"; fi

# The site in site/, which opens as a file. A warning is an error. The tests build it too, elsewhere.
docs: install npm
	$(BIN)/mkdocs build

docs-serve: install npm
	$(BIN)/mkdocs serve

# From npm, if it is there: what lets the site search when it is opened as a file, and what audits pages in a browser.
npm: $(VENV)/npm/installed

$(VENV)/npm/installed: Makefile | install
	mkdir -p $(@D)
	@npm install --silent --no-audit --no-fund --fetch-retries 1 --fetch-timeout 30000 --prefix $(@D) iframe-worker@1.0.4 axe-core@4.14.1 && touch $@ \
		|| echo "npm is missing or could not install: the site will not search when it is opened as a file, and pages are not audited"

# What is published: wheel and sdist, looked at as the index would; the rest of a release is in CONTRIBUTING.md.
release: install
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/uvx twine check --strict dist/*

install: $(VENV)/installed

# Everything, every extra, at the versions of constraints.txt; the override keeps torchattacks' old pin away. Compiled
# at once, for where Python may not keep what it compiles: there, each command would spend most of its start on it.
$(VENV)/installed: pyproject.toml constraints.txt overrides.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --override overrides.txt --editable '.[robustness,onnx,space,metrics,docs,dev]'
	touch $@

# The oldest supported stack, in an environment of its own.
OLDEST := .venv-oldest
test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --python $(OLDEST)/bin/python --constraint constraints-oldest.txt --editable . pytest pytest-timeout scikit-learn scipy fastapi uvicorn yacs tensorboard
	OMP_NUM_THREADS=2 $(OLDEST)/bin/python -m pytest -q tests/synco_hub/models tests/synco_hub/hub tests/trainers tests/synco_hub/test_flag_parser.py tests/synco_hub/test_protocols.py tests/synco_hub/cli/test_main.py

# sentence-transformers and mteb, which are no part of the environment above, in one of their own.
EXTRAS := .venv-extras
test-extras:
	test -x $(EXTRAS)/bin/python || $(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip install --quiet uv
	$(EXTRAS)/bin/uv pip install --python $(EXTRAS)/bin/python --constraint constraints.txt --editable '.[sentence-transformers,mteb]' pytest pytest-timeout
	OMP_NUM_THREADS=2 $(EXTRAS)/bin/python -m pytest -q -m extras tests/synco_hub/test_mteb_model.py tests/synco_hub/hub/export tests/docs/test_how_to_features.py

# Half an hour; writes tests/benchmarks/results/*.json and BENCHMARKS.md.
bench: install
	for script in tests/benchmarks/benchmark_*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done
	$(BIN)/python tests/benchmarks/report.py

bench-report: install
	$(BIN)/python tests/benchmarks/report.py

bench-smoke: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/smoke.py

clean:
	rm -rf $(VENV) $(OLDEST) $(EXTRAS) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
