# All targets set up what they need: .venv is built from requirements.lock if it is missing or older than the lock.
# PYTHON=/path/to/python chooses another interpreter (3.12 or newer).

PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
READY := .venv/.ready
SITE := build/docs-venv
RELEASE := build/release
# Compilation keeps one core busy. The tests of a file stay in one process, since they share fits. A worker that dies ends
# the run: its replacement would wait forever.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy --config-file pyproject.toml

.PHONY: demo test test-all bench notebooks docs lint format lock release-check lower-bounds clean

# Processes share the bytecode of what they import; without it each would compile that anew, in seconds.
unexport PYTHONDONTWRITEBYTECODE

demo: $(READY)  ## The main task on real data: one network by MLE, MAP and posterior; a table, a figure and a page.
	$(BIN)/flatprior compare --out demo --report demo/report.html

test: $(READY)  ## Everything that a change must pass: tests and `lint` side by side.
	@mkdir -p build
	@{ $(LINT); } > build/lint.txt 2>&1 & lint=$$!; \
		$(BIN)/pytest $(PARALLEL); tests=$$?; \
		wait $$lint; lint=$$?; cat build/lint.txt; exit $$((tests | lint))

test-all: lint  ## The same, and long statistical tests; writes the table tests/RESULTS.md.
	@mkdir -p build
	$(BIN)/pytest $(PARALLEL) -m "slow or not slow" --junitxml build/test-all.xml; status=$$?; \
		$(BIN)/python tests/results.py build/test-all.xml > tests/RESULTS.md; exit $$status

bench: $(READY)  ## Speed against a hand-written loop and other libraries.
	$(BIN)/python benchmarks/point.py

notebooks: $(READY)  ## Run the notebooks at full size and store their outputs.
	$(BIN)/python -m nbconvert --to notebook --execute --inplace notebooks/*.ipynb

docs: $(SITE)/.ready  ## The site, in build/site; a warning is an error. Notebooks are shown with their stored outputs.
	$(SITE)/bin/python -m sphinx -q -W --keep-going -b html docs build/site

# Sphinx has an environment of its own, which sees what .venv has: the lock need not know it.
$(SITE)/.ready: $(READY) pyproject.toml
	$(BIN)/python -m venv $(SITE)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > \
		"$$($(SITE)/bin/python -c 'import site; print(site.getsitepackages()[0])')/library.pth"
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[docs]'
	@touch $@

lint: $(READY)  ## Style and types.
	$(LINT)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY)  ## Update requirements.lock to newer releases.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.12 --generate-hashes --extra dev --upgrade --quiet \
		--no-emit-index-url --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

# What checks a release has an environment of its own, and the wheel another: an empty one, without extras.
release-check: $(READY)  ## Source archive and wheel, in dist/: their contents, and the README's example with the wheel alone.
	rm -rf dist $(RELEASE)
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m venv $(RELEASE)/tools
	$(RELEASE)/tools/bin/python -m pip install --quiet --disable-pip-version-check twine check-wheel-contents cffconvert
	$(RELEASE)/tools/bin/twine check --strict dist/*
	$(RELEASE)/tools/bin/check-wheel-contents dist/*.whl
	$(RELEASE)/tools/bin/cffconvert --validate
	$(BIN)/python -m venv $(RELEASE)/empty
	$(RELEASE)/empty/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd tests && ../$(BIN)/python -c "from pathlib import Path; from snippets import snippets_of; \
		print(snippets_of(Path('../README.md'))[0])" > ../$(RELEASE)/example.py
	cd $(RELEASE) && empty/bin/python example.py

lower-bounds: $(READY)  ## Some tests with the oldest releases that pyproject.toml allows.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.12 --extra dev \
		--output-file build/lowest.txt pyproject.toml
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip sync --quiet --python build/lowest/bin/python build/lowest.txt
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --no-deps --no-build-isolation --editable .
	build/lowest/bin/python -m pytest --override-ini filterwarnings=default \
		tests/test_internals.py tests/test_prior.py tests/test_encoder.py tests/test_saved.py \
		tests/test_lift.py tests/test_estimators.py tests/test_plots.py

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "flatprior needs Python 3.12 or newer; give one as PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
		--requirement requirements.lock  # most modules are never imported; the others compile on import
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@mkdir -p .venv/typing/flatprior && cd .venv/typing/flatprior && \
		ln -sfn ../../../models models && ln -sfn ../../../inference inference && ln -sfn ../../../tables tables && \
		ln -sfn ../../../package/__init__.py __init__.py && ln -sfn ../../../estimators estimators && ln -sfn ../../../command command
	@touch $@

clean:
	rm -rf .venv build demo dist *.egg-info
