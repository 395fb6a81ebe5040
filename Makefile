# `make demo` and `make test` start from a machine with nothing but python3 (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PYTHONS ?= python3.11 python3.12 python3.13
SOURCES := pyproject.toml constraints.txt

# pip would compile every module of every package; those that are imported are compiled then, and kept.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint pytest compatibility schemas dashboards frontends format screenshots benchmark clean

demo: .venv/.demo
	$(BIN)/crystools-tpu demo

# What needs no second core runs beside the tests, which wait for browsers and other programs now and then.
test:
	$(MAKE) --jobs 2 lint pytest .venv/.newest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The files in their own order: xdist would keep those of few tests for the end, and they take longest.
pytest: .venv/.dev .venv/frontends/.installed node_modules/.installed
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Both ends of the bounds on each Python, several GB and half an hour a set; writes docs/compatibility.md.
compatibility:
	$(PYTHON) -m tests.compatibility $(PYTHONS)

frontends: .venv/frontends/.installed

# What is written from declarations in the code: the schemas, the page's types, the tables of the documents.
schemas: .venv/.dev
	$(BIN)/python -m docs.make_schemas
	$(BIN)/python -m docs.make_reference

dashboards: .venv/.dev
	$(BIN)/python grafana/generate.py

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Those of ComfyUI too, where COMFYUI_DIR and COMFYUI_PYTHON say which: see CONTRIBUTING.md.
screenshots: .venv/.dev .venv/frontends/.installed
	$(BIN)/python docs/make_screenshots.py
	PYTHONPATH=.:grafana $(BIN)/python docs/make_dashboard_pictures.py
	test -z "$$COMFYUI_DIR" || $(BIN)/python docs/make_comfyui_screenshots.py

benchmark: .venv/.dev .venv/frontends/.installed
	$(BIN)/python -m benchmarks.telemetry
	$(BIN)/python -m benchmarks.history
	$(BIN)/python -m benchmarks.scrape
	$(BIN)/python -m benchmarks.page
	test -z "$$COMFYUI_DIR" || $(BIN)/python -m benchmarks.comfyui

clean:
	rm -rf .venv node_modules demo-output .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "python 3.11 or newer is needed; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv || { echo "python3-venv is missing: apt install python3-venv"; exit 1; }

.venv/.demo: .venv/bin/python $(SOURCES)
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[pipelines]'
	touch $@

.venv/.dev: .venv/bin/python $(SOURCES)
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[comfyui,dev]'
	touch $@ .venv/.demo

# What has come out since the pins were made, where the bounds allow it.
.venv/.newest: .venv/.dev
	$(BIN)/python -m tests.compatibility --over-pins
	touch $@

# Versions of ComfyUI's frontend side by side, which is why they are no dependency of the tests.
.venv/frontends/.installed: tests/web/comfyui_frontends.txt .venv/.dev
	for version in $$(cat $<); do \
		test -d $(@D)/$$version/comfyui_frontend_package || $(PIP_INSTALL) --no-deps \
			--target $(@D)/$$version comfyui-frontend-package==$$version || exit 1; \
	done
	touch $@

.system-programs: tests/install_system_programs.sh
	sh tests/install_system_programs.sh
	touch $@

node_modules/.installed: package.json .system-programs
	mkdir -p node_modules
	! command -v npm >/dev/null || npm install --silent --no-audit --no-fund
	touch $@
