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
ROOTS := $(or $(OLLAMESH_CACHE),.ollamesh/cache)/sandbox
PROTOS := $(shell find protos -name '*.proto')

.PHONY: help
help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: .venv/.ready gen/.ready $(ROOTS)/.ready ## install everything by hash-locked wheel, generate the stubs, build what the sandbox shows

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
	@PATH="$(CURDIR)/.venv/bin:$$PATH" buf generate 2> /dev/null || PATH="$(CURDIR)/.venv/bin:$$PATH" buf generate
	@touch $@

# What jails see. A stack looks again when it starts.
$(ROOTS)/.ready: .venv/.ready $(wildcard services/sandbox/rootfs/*.py services/sandbox/rootfs/*/*.py services/sandbox/rootfs/*.lock)
	@echo "setup: building the roots of the sandbox"
	@$(PY) -m services.sandbox.rootfs --into $(ROOTS)
	@touch $@

.PHONY: lock
lock: .tools/.ready ## resolve requirements.lock anew from pyproject.toml, and the locks of the sandbox's packages, of deploy-check and of images
	$(UV) pip compile pyproject.toml --group local --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header -q -o requirements.lock
	cd services/sandbox/rootfs && $(CURDIR)/$(UV) pip compile python-data.in --universal --python-version 3.11 \
	  --only-binary :all: --generate-hashes --no-annotate --no-header -q -o python-data.lock
	@cd deploy/check && for name in deploy checkov; do \
	  $(CURDIR)/$(UV) pip compile $$name.in --universal --python-version 3.11 --only-binary :all: \
	    --generate-hashes --no-annotate --no-header -q -o $$name.lock; done

	@cd deploy/docker/requirements && for name in *.in; do \
	  $(CURDIR)/$(UV) pip compile $$name -c $(CURDIR)/requirements.lock --universal --python-version 3.11 \
	    --no-annotate --no-header -q -o $${name%.in}.lock; done

.PHONY: gvisor
gvisor: setup ## fetch gVisor's runsc, for the sandbox's engine of that name, from this machine's Debian packages
	@$(PY) -m tools.gvisor .tools/gvisor/runsc

.PHONY: prometheus
prometheus: setup ## fetch Prometheus, Alertmanager and exporters from this machine's Debian packages, for make up OBSERVE=1
	@$(PY) -m tools.prometheus

# ---- The stack -------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## set up, start the stack, run the main job through the edge with a real model, and print it
	@.venv/bin/ollamesh demo

# OBSERVE=1 is OLLAMESH_OBSERVE=true, and fetches what that needs.
OBSERVED = $(filter-out 0 false,$(OBSERVE))
.PHONY: up
up: setup $(if $(OBSERVED),prometheus) ## start the stack in the background; return when every part is ready; OBSERVE=1: with Prometheus
	@$(if $(OBSERVED),OLLAMESH_OBSERVE=true )$(PY) -m deploy.local up

.PHONY: down
down: setup ## stop the stack and leave nothing running
	@$(PY) -m deploy.local down

.PHONY: status
status: setup ## show each part of the stack, its port, health and pid
	@$(PY) -m deploy.local status

.PHONY: trace
trace: setup ## what happened inside a call and where its time went: make trace ID=4bf9; without ID, the latest
	@.venv/bin/ollamesh trace $(ID)

# ---- Checks and tests ------------------------------------------------------------------------------

.PHONY: format
format: setup ## format Python and protos
	@$(PY) -m ruff format -q .
	@$(PY) -m ruff check -q --fix-only .
	@.venv/bin/buf format -w

.PHONY: check
check: check-static ## all static checks, the architecture rules and the unit tests
	@$(PY) -m pytest -q tests/architecture tests/unit

.PHONY: check-static
check-static: setup protos-check ## format, lint, types, protos
	@$(PY) -m ruff format --check -q .
	@$(PY) -m ruff check -q .
	@$(PY) -m mypy .

.PHONY: golden
golden: setup ## write the edge's configuration anew where the tests compare with it
	@$(PY) -m tests.unit.envoy_golden

.PHONY: dashboards
dashboards: setup ## write Grafana's dashboards anew from deploy/grafana
	@$(PY) -m deploy.grafana

.PHONY: protos
protos: .venv/.ready ## generate the stubs anew
	@touch buf.gen.yaml
	@$(MAKE) gen/.ready

# What a change must not break: the last release, or before the first one, the last commit.
PROTOS_AGAINST ?= $(shell git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || echo HEAD)

.PHONY: protos-check
protos-check: setup ## fail on proto lint, format, breaking change or stale stubs
	@.venv/bin/buf lint
	@.venv/bin/buf format --diff --exit-code > /dev/null || { echo "protos are not formatted: run 'make format'"; exit 1; }
	@if git rev-parse -q --verify $(PROTOS_AGAINST):protos > /dev/null; then \
	  .venv/bin/buf breaking --against ".git#ref=$(PROTOS_AGAINST)"; fi
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	  PATH="$(CURDIR)/.venv/bin:$$PATH" buf generate -o "$$fresh" 2> /dev/null; \
	  diff -rq -x __pycache__ -x .ready "$$fresh/gen" gen || { echo "gen/ is stale: run 'make protos'"; exit 1; }

# Two at a time, each with its own PostgreSQL, Redis and stack, for most tests wait. Tracebacks are Python's own: pytest's
# read the source again, at which Python 3.11 stumbles now and then (SystemError: AST constructor recursion depth).
.PHONY: test
test: setup ## the whole suite, on real parts: make test PYTEST="-n 0 --tb=long -k edge"
	@$(MAKE) .tools/deploy/.ready || echo "test: the tools of deploy-check cannot be had here; their tests are skipped"
	@$(PY) -m pytest -n 2 --dist loadfile --tb=native $(PYTEST)

SEEDS ?= 2000
.PHONY: sim
sim: setup ## the seeded simulations, longer: make sim SEEDS=10000
	@$(PY) -m pytest -q tests/simulation --seeds $(SEEDS)

# The soak takes its time, and has a target of its own.
BENCHES = $(filter-out __init__ smoke soak,$(basename $(notdir $(wildcard tests/bench/*.py))))
.PHONY: bench
bench: setup ## all benchmarks; tables here, JSON in .ollamesh/bench/
	@for name in $(BENCHES); do $(MAKE) bench-$$name; done

.PHONY: bench-smoke
bench-smoke: setup ## the data plane and checkpoints in a minute: fails if a ratio is off by more than twice
	@$(PY) -m tests.bench.smoke

.PHONY: profile
profile: setup ## flame graphs of the gateway under load, in .ollamesh/bench/
	@$(PY) -m tests.bench.plane.flame

.PHONY: load
load: setup ## mixed traffic through the edge at fixed times, report and plots in .ollamesh/load/: make load RATE=2 SECONDS=60 MODELS=fake GPUS=2
	@MODELS="$(MODELS)" RATE="$(RATE)" SECONDS="$(SECONDS)" SEED="$(SEED)" MIX="$(MIX)" GPUS="$(GPUS)" SLOTS="$(SLOTS)" $(PY) -m tests.load

# A benchmark leaves out peers that are not there.
.PHONY: bench-peers
bench-peers: setup ## install what benchmarks compare with, each in its own environment: make bench-peers PEERS=litellm
	@$(PY) -m tests.bench.peers.install $(PEERS)

.PHONY: bench-peers-lock
bench-peers-lock: .tools/.ready ## resolve the locks of the peers anew
	@cd tests/bench/peers && for name in litellm vllm_router published_saver; do \
	  $(CURDIR)/$(UV) pip compile $$name.in --universal --python-version 3.11 --only-binary :all: \
	    --generate-hashes --no-annotate --no-header -q -o $$name.lock; done

bench-%: setup ## one benchmark, such as bench-ttft
	@$(PY) -m tests.bench.$(subst -,_,$*)

MINUTES ?= 30
.PHONY: soak
soak: setup ## 200 streams of which a fifth is left: does the gateway grow? make soak MINUTES=5
	@MINUTES=$(MINUTES) $(PY) -m tests.bench.soak

COUNT ?= 5000
.PHONY: soak-sandbox
soak-sandbox: setup ## 5,000 executions of every kind: is anything left, does anything grow? make soak-sandbox COUNT=500
	@COUNT=$(COUNT) SEED=$(SEED) $(PY) -m tests.sandbox_attacks.soak

.PHONY: kills-sandbox
kills-sandbox: setup ## kill every part of the sandbox at random moments: make kills-sandbox SEED=7 KILLS=200
	@OLLAMESH_CHAOS_SEED=$(SEED) OLLAMESH_CHAOS_KILLS=$(KILLS) \
	  $(PY) -m pytest -q -s -p no:randomly tests/sandbox_attacks/test_kills.py $(PYTEST)

# SEED draws another order of faults; a failure names it.
SEED ?= 1
KILLS ?= 20
FAULT_S ?= 30
READERS ?= 200
CALLS ?= 5000
STREAMS ?= 30
.PHONY: chaos
chaos: setup ## the fault matrix at full length: make chaos SEED=7 KILLS=5 FAULT_S=10 READERS=50 CALLS=600 STREAMS=8
	@OLLAMESH_CHAOS_SEED=$(SEED) OLLAMESH_CHAOS_KILLS=$(KILLS) OLLAMESH_CHAOS_FAULT_S=$(FAULT_S) \
	  OLLAMESH_CHAOS_READERS=$(READERS) OLLAMESH_CHAOS_CALLS=$(CALLS) OLLAMESH_CHAOS_STREAMS=$(STREAMS) \
	  $(PY) -m pytest -q -s -p no:randomly tests/chaos $(PYTEST)

HOST ?= localhost
PUBLISH ?= 127.0.0.1:8443
.PHONY: compose-secrets
compose-secrets: setup ## write what deploy/compose needs: make compose-secrets HOST=mesh.example PUBLISH=0.0.0.0:443 WITH="gpu observe"
	@$(PY) -m deploy.compose.prepare --host $(HOST) --publish $(PUBLISH) --with $(WITH)

.PHONY: sbom
sbom: setup deploy-tools ## say what each image holds, as CycloneDX, in .ollamesh/sbom
	@$(PY) -m deploy.docker.sbom .ollamesh/sbom

.PHONY: client-wheel
client-wheel: setup ## pack the Python client with its stubs, in .ollamesh/dist
	@$(PY) -m deploy.release wheel .ollamesh/dist

.PHONY: images-prove
images-prove: setup ## build every image without a container engine, and run a mesh of them: make images-prove ARGS=--again
	@$(PY) -m deploy.docker.prove $(ARGS)

.PHONY: drill-release
drill-release: setup ## a new version comes in and goes back, a bad one is taken back, under load: who notices?
	@$(PY) -m tests.drills.release

.PHONY: drill-rollback
drill-rollback: setup ## every replica goes back to the release before and forward again, on the new schema, under load
	@$(PY) -m tests.drills.rollback

SIZE_MB ?= 20
.PHONY: drill-restore
drill-restore: setup ## load, backup, destroy, restore, compare; prints RPO and RTO: make drill-restore SIZE_MB=1000
	@SIZE_MB=$(SIZE_MB) $(PY) -m tests.drills.restore

.tools/%/.ready: deploy/check/%.lock | .tools/.ready
	@echo "deploy-check: installing the tools of $<"
	@$(UV) venv -q --allow-existing --python .tools/bin/python $(@D)
	@$(UV) pip sync -q --require-hashes --only-binary :all: --python $(@D)/bin/python $<
	@touch $@

.PHONY: deploy-tools
deploy-tools: .tools/deploy/.ready .tools/checkov/.ready ## install what deploy-check runs, in environments of their own

SUBJECTS ?=
.PHONY: deploy-check
deploy-check: setup deploy-tools ## every offline check of images, compose, charts, policies and alert rules: make deploy-check SUBJECTS="helm" STRICT=1
	@$(PY) -m deploy.check $(if $(STRICT),--strict) $(SUBJECTS)

.PHONY: clean
clean: ## remove what setup made; run-time state in .ollamesh stays
	@rm -rf .tools .venv gen
