# Every target installs what it needs first. It takes Python >= 3.11, a C library and the package
# index; no root, no Docker, no compiler.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
export UV_PYTHON_DOWNLOADS := never
UV := .tools/bin/uv
PY := .venv/bin/python
PROTOS := $(shell find protos -name '*.proto')

.PHONY: help
help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: .venv/.ready gen/.ready ## install everything by hash-locked wheel and generate the stubs

.tools/.ready: bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Ollamesh needs Python 3.11 or newer, this is %d.%d: run `make PYTHON=python3.12 ...` with one you have." % sys.version_info[:2])'
	@echo "setup: installing uv"
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

.venv/.ready: requirements.lock tools/link_sources.py | .tools/.ready
	@echo "setup: installing the packages of requirements.lock"
	@$(UV) venv -q --allow-existing --python .tools/bin/python .venv
	@$(UV) pip sync --require-hashes --only-binary :all: --python $(PY) $<
	@$(UV) pip check -q --python $(PY)
	@$(PY) tools/link_sources.py
	@touch $@

gen/.ready: .venv/.ready buf.gen.yaml tools/protoc_gen_grpc_python.py $(PROTOS)
	@echo "setup: generating stubs"
	@PATH="$(CURDIR)/.venv/bin:$$PATH" buf generate
	@touch $@

.PHONY: lock
lock: .tools/.ready ## resolve requirements.lock anew from pyproject.toml
	$(UV) pip compile pyproject.toml --group local --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header -q -o requirements.lock
