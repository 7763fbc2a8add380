# The only task runner: `make help` lists the verbs. CI calls nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8080
ARGS ?=
SECONDS_TO_SOAK ?= 600
DEVICE ?= cpu
ENGINE ?= docker

UV_VERSION := 0.13.9
UV := .cache/uv/bin/uv
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := .cache/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
PY := .venv/bin/python
export UV_PYTHON_DOWNLOADS := never
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help
help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

.PHONY: run
run: build ## set everything up and serve the bundled model (PORT=9000 ARGS="--model-id …")
	@echo "==> serving on http://$(HOST):$(PORT)"
	@exec .venv/bin/forebay serve --hostname $(HOST) --port $(PORT) $(ARGS)

.PHONY: build
build: $(UV) ## install the binary and the worker into .venv
	@echo "==> installing forebay, its worker and its kernels into .venv (the first time takes some minutes)"
	@$(UV) sync --locked --inexact --group model

.PHONY: dev
dev: $(UV) ## as build, with the tools that tests and lints need
	@echo "==> installing forebay and the development tools into .venv (the first time takes some minutes)"
	@$(UV) sync --locked --inexact --group dev

.PHONY: test
test: dev lint test-rust test-python test-integration ## set everything up, lint, and run all tests
	@echo "==> all tests passed"

.PHONY: test-rust
test-rust: ## unit tests, scenarios and the simulation (a million steps)
	@echo "==> Rust tests"
	cargo test --locked --quiet

.PHONY: test-python
test-python: ## worker and kernels against their references, the tables of benchmarks
	@echo "==> Python tests"
	$(PY) -m pytest -q server/tests kernels/tests benchmarks/tests

.PHONY: test-integration
test-integration: ## the real binary and the real model, over HTTP only
	@echo "==> integration tests"
	$(PY) tools/check_tokenizer.py
	$(PY) -m tools.check_determinism --prompts 16 --only "all at once" -- --deterministic
	$(PY) -m pytest -q -m "not slow" integration-tests

.PHONY: lint
lint: $(CARGO_DENY) ## formatting, clippy, ruff, mypy, import walls, the map, generated files, dependencies
	@echo "==> lints"
	@tools/lint.sh $(PY) $(CARGO_DENY)

.PHONY: audit
audit: $(CARGO_DENY) dev ## known vulnerabilities of what we depend on (asks databases on the internet)
	$(CARGO_DENY) check advisories
	$(UV) audit --locked --no-dev

.PHONY: format
format: ## rewrite what the formatters would
	cargo fmt
	$(PY) -m ruff format . && $(PY) -m ruff check --fix-only .

.PHONY: proto
proto: ## regenerate the Python side of proto/worker.proto
	$(PY) tools/generate_proto.py

.PHONY: truth
truth: dev ## the model's output against transformers and llama.cpp (minutes)
	$(PY) tools/check_truth.py
	$(PY) -m tools.check_sampling

.PHONY: determinism
determinism: dev ## 500 prompts alone and in every situation, compared to the bit (many minutes; ARGS="--model float32 …")
	$(PY) -m tools.check_determinism $(ARGS)

.PHONY: tokenizers
tokenizers: dev ## token ids of every pre-tokenizer against llama.cpp's (minutes)
	$(PY) tools/check_tokenizer.py --all-pre

.PHONY: crash
crash: dev ## kill a real worker twenty times under sixteen streams (minutes)
	$(PY) -m pytest -q -s -m slow integration-tests/test_worker_crash.py

.PHONY: soak
soak: ## run the scheduler's simulator on fresh seeds for SECONDS_TO_SOAK
	cargo run --locked --quiet -p forebay-scheduler --example soak -- $(SECONDS_TO_SOAK)

.PHONY: mutants
mutants: ## show that the scheduler's tests catch known mistakes, each a patch (minutes)
	$(PY) tools/check_mutants.py

.PHONY: bench
bench: dev ## ours and llama.cpp's server in turn on the same file; prints ratios (minutes)
	$(PY) benchmarks/serving.py $(ARGS)

.PHONY: bench-peers
bench-peers: dev ## ours and all peers, 3 rounds of 30 s a load, into benchmarks/results (hours; 17 GiB of disk)
	$(PY) benchmarks/serving.py --peers llama.cpp,vllm,transformers --seconds 30 --output results $(ARGS)

.PHONY: bench-router
bench-router: dev ## what the router itself costs, over a worker without a model (minutes)
	cargo build --locked --release -p forebay && cargo build --locked --release -p forebay-engine --example paced_worker
	$(PY) benchmarks/router.py $(ARGS)

.PHONY: gpu-check
gpu-check: ## a GPU against the CPU, op by op and a random 1B Llama; figures (PYTHON=… with torch; nothing is built)
	$(PYTHON) -m tools.gpu_check $(ARGS)

.PHONY: image
image: ## build the container image (DEVICE=cpu|cuda ENGINE=docker|podman|buildah)
	$(ENGINE) build --build-arg DEVICE=$(DEVICE) --build-arg GIT_SHA=$$(git rev-parse HEAD) \
	  $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(if $(RUST_IMAGE),--build-arg RUST_IMAGE=$(RUST_IMAGE)) \
	  --tag forebay:$(DEVICE) $(ARGS) .

.PHONY: clean
clean: ## remove everything that make made
	rm -rf .venv .cache target kernels/python/forebay_kernels/*.so

$(UV):
	@tools/check_prerequisites.sh $(PYTHON)
	@echo "==> installing uv $(UV_VERSION) into .cache/uv"
	@$(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(CARGO_DENY):
	@echo "==> building cargo-deny $(CARGO_DENY_VERSION) into .cache (some minutes)"
	@cargo install --locked --quiet --root .cache/cargo-deny-$(CARGO_DENY_VERSION) cargo-deny@$(CARGO_DENY_VERSION)
