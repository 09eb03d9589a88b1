# Every target works on a fresh clone with Python 3.11 or 3.12, git and make: the environment installs itself
# from the hashed lock. Call depth: make -> sekisho -> function.

PYTHON ?= python3
REMOTE ?= sample
SECONDS ?= 3600
BASE ?= origin/main
OUT ?= build/terraform/cost.md
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := build/bench/peers
CONFORMANCE := build/conformance
DRIFT_PEERS := build/bench/drift-peers
BENCHMARKS := bench-speed bench-gate bench-learning bench-verify bench-serving bench-drift bench-distributed
# the release in production, which the backtest runs beside the candidate; nothing before the first promotion
CHAMPION = $(shell sed -n 's|^RELEASE=\(.*\)@.*|releases/\1/content.dvc|p' deploy/policy/production/release.env)
CHECKOV := build/terraform/checkov
MKDOCS := build/docs
TFLINT := github.com/terraform-linters/tflint@v0.64.0
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS := 1
export DVC_NO_ANALYTICS := 1
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	{ echo '$(PYTHON) is not Python 3.11 or 3.12: name one that is, as in make setup PYTHON=python3.12'; exit 1; }
	@echo 'installing into $(VENV), about 7 GB the first time; it takes minutes'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(READY)

setup: $(READY) ## install everything from the hashed lock
	@echo 'ready: . $(BIN)/activate puts the commands on the path, sekisho doctor says what is missing'

demo: $(READY) ## the whole loop on this machine, from a pull request to a retrain pull request (FAST=1: smaller)
	python demo/loop.py $(if $(FAST),--fast) $(if $(PICTURE),--picture $(PICTURE))

demo-real: $(READY) ## real prices through the same pipeline, to the honest report and the gate's verdict
	python demo/real.py $(if $(FAST),--fast)

test: $(READY) $(MKDOCS)/.ready ## all tests but those that apply Terraform
	pytest -n 2 -m "not applied"

quick: $(READY) ## the tests that take seconds
	pytest -n 2 -m "not slow and not applied"

test-terraform: $(READY) $(CHECKOV)/.ready ## what `make test` leaves out: Terraform applied to a server in AWS's place, checkov, tflint (8 minutes)
	pytest -n 6 -m applied tests/terraform # they mostly wait
	@if command -v go >/dev/null; then echo tflint && go run $(TFLINT) --chdir=terraform --recursive --config=$(CURDIR)/terraform/.tflint.hcl; \
	else echo 'tflint: skipped, it is built with go, which is not installed here (CI has it)'; fi

docs: $(MKDOCS)/.ready ## the documents as a site in build/site, which opens without a server
	NO_MKDOCS_2_WARNING=1 $(MKDOCS)/bin/mkdocs build
	@echo 'open build/site/en/index.html or build/site/ja/index.html'

docs-reference: $(READY) ## the reference pages, written from the code
	PYTHONPATH=. python docs/reference.py

$(MKDOCS)/.ready: $(READY) requirements/docs.txt
	rm -rf $(MKDOCS)
	uv venv --quiet --python $(BIN)/python $(MKDOCS)
	uv pip sync --quiet --python $(MKDOCS)/bin/python --require-hashes requirements/docs.txt
	@touch $@

terraform-mirror: ## fetch the AWS provider for the tests, where terraform may download it and none is there
	@PYTHONPATH=. $(PYTHON) -c 'import sys; from terraform.offline import mirror; sys.exit(mirror() is None)' || terraform -chdir=terraform/bootstrap providers mirror $(CURDIR)/build/terraform/mirror

terraform-docs: $(READY) ## the generated parts of the pages on Terraform
	PYTHONPATH=. python terraform/reference.py

cost: $(READY) ## what the platform costs, judged against its budgets
	python terraform/offline.py && PYTHONPATH=. python terraform/cost/gate.py build/terraform/plans

cost-change: $(READY) ## what this branch changes in it (BASE: what to compare with; OUT: a file for the tables)
	rm -rf build/terraform/base && git worktree prune && git worktree add --quiet --detach build/terraform/base $(BASE)
	SEKISHO_TERRAFORM_MIRROR=$(or $(SEKISHO_TERRAFORM_MIRROR),$(CURDIR)/build/terraform/mirror) python build/terraform/base/terraform/offline.py --out $(CURDIR)/build/terraform/plans-of-base
	python terraform/offline.py && PYTHONPATH=. python terraform/cost/gate.py build/terraform/plans --against build/terraform/plans-of-base --out $(OUT)

$(CHECKOV)/.ready: $(READY) requirements/checkov.txt
	rm -rf $(CHECKOV)
	uv pip install --quiet --python $(BIN)/python --target $(CHECKOV) --no-deps --require-hashes -r requirements/checkov.txt
	@touch $@

check: $(READY) ## format, lint, types, workflows, generated files
	ruff format --check .
	ruff check .
	mypy
	MYPYPATH=. mypy --explicit-package-bases terraform/offline.py terraform/reference.py terraform/cost/gate.py
	zizmor --offline --quiet --persona=auditor .github
	python deploy/monitoring/dashboards.py --check
	MYPYPATH=. mypy --explicit-package-bases docs/reference.py docs/site.py deploy/conform.py
	PYTHONPATH=. python docs/reference.py --check
	python training/workflow.py --check
	@if command -v go >/dev/null; then echo actionlint && go run $(ACTIONLINT); \
	else echo 'actionlint: skipped, it is built with go, which is not installed here (CI has it)'; fi

manifests: $(READY) ## what the clusters are given, compared with its kinds' definitions (kubeconform; fetches them with go)
	python deploy/conform.py

e2e: $(READY) ## promotions, a tampered release and a rollback on the cluster of KUBECONFIG, with Argo CD and with Seldon's operator; a night on Argo Workflows
	SEKISHO_E2E=1 pytest -s -v tests/e2e/test_cluster.py tests/e2e/test_seldon_cluster.py tests/e2e/test_workflow_cluster.py

conformance: $(CONFORMANCE)/.ready ## Triton's own clients and schemathesis against the policy server
	pytest -v tests/serving/test_conformance.py

$(CONFORMANCE)/.ready: $(READY) requirements/conformance.txt
	rm -rf $(CONFORMANCE)
	uv venv --quiet --python $(BIN)/python $(CONFORMANCE)
	uv pip sync --quiet --python $(CONFORMANCE)/bin/python --require-hashes requirements/conformance.txt
	@touch $@

soak: $(READY) ## the policy server under 1,000 requests a second for SECONDS (an hour): nothing lost, no growth
	SEKISHO_SOAK=$(SECONDS) pytest -s -v tests/serving/test_soak.py

repro: $(READY) ## reproduce the pipeline in this checkout (REMOTE=storage: production's data; REPRO=--force: all of it)
	dvc pull --remote $(REMOTE) data.dvc $(CHAMPION) && dvc repro --pull $(REPRO)

trials: ## fetch what counts as trials beside the branches: pushed experiments, pull requests whose branches are gone
	git $(if $(GITHUB_TOKEN),-c credential.helper='!f() { echo username=x-access-token; echo "password=$$GITHUB_TOKEN"; }; f') fetch --quiet origin '+refs/exps/*:refs/remotes/exps/*' '+refs/pull/*/head:refs/remotes/pull/*'

bench: $(READY) ## all benchmarks beside their peers; a missed goal fails it after all have run
	@$(MAKE) --keep-going $(BENCHMARKS)

bench-speed: $(PEERS)/.ready ## the market's and PPO's speed beside FinRL and Gym-Trading-Env (minutes)
	python bench/speed.py

bench-learning: $(READY) ## the trainers on a market whose optimum is known, beside sb3 and simple rules (25 minutes)
	python bench/learning.py

bench-gate: $(READY) ## how often the gate lets luck pass, and skill (10 minutes)
	python bench/gate.py

bench-verify: $(READY) ## verifying a release beside hashing it; how soon help and traces answer (2 minutes)
	PYTHONPATH=. python bench/verify.py

bench-drift: $(DRIFT_PEERS)/.ready ## the drift check's false alarms, delays and cost beside evidently and NannyML (20 minutes)
	python bench/drift.py

$(DRIFT_PEERS)/.ready: $(READY) requirements/bench-drift.txt
	rm -rf $(DRIFT_PEERS)
	uv venv --quiet --python $(BIN)/python $(DRIFT_PEERS)
	uv pip sync --quiet --python $(DRIFT_PEERS)/bin/python --require-hashes requirements/bench-drift.txt
	@touch $@

bench-distributed: $(READY) ## training on one process and on two, and what the messages take (minutes)
	python bench/distributed.py

bench-serving: $(READY) ## the policy server beside stock MLServer with the same model (4 minutes)
	PYTHONPATH=. python bench/serving.py

$(PEERS)/.ready: $(READY) requirements/bench.txt
	rm -rf $(PEERS)
	uv pip install --quiet --python $(BIN)/python --target $(PEERS) --no-deps --require-hashes -r requirements/bench.txt
	@touch $@

image: ## an image from its Containerfile (IMAGE=policy-server, runner or trainer), without a time of day in it
	buildah build --file deploy/images/$(IMAGE)/Containerfile --ignorefile deploy/images/containerignore --timestamp 0 --tag sekisho/$(IMAGE) .

lock: $(READY) ## recompile the hashed locks after a change of dependencies (UPGRADE=--upgrade: newest of all)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) requirements/bootstrap.in -o requirements/bootstrap.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) --all-extras pyproject.toml requirements/build.in -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) --extra serve pyproject.toml -o requirements/serve.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) --no-deps requirements/bench.in -o requirements/bench.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) requirements/bench-drift.in -o requirements/bench-drift.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) requirements/conformance.in -o requirements/conformance.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) requirements/checkov.in -o requirements/checkov.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(UPGRADE) requirements/docs.in -o requirements/docs.txt

clean: ## remove what the targets made (keeps the environment and DVC's cache)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache

.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(MAKEFILE_LIST))
