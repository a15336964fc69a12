# Wattfarm's chores. `make` alone prints the manual; longer logic is in Rust, or in deploy/.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)

# How long `make demo` measures layers.
BUDGET ?= 5m

# The agent needs libtorch: your own folder if LIBTORCH names one, or else one that `make setup` downloads.
ifndef LIBTORCH
export LIBTORCH := $(CURDIR)/target/libtorch
SETUP_LIBTORCH := python3 deploy/libtorch/setup.py target/libtorch
endif

.PHONY: manual setup budget demo demo-clean gpu-kit test-gpu-kit pip test check bench bench-onnx bench-files bench-predict bench-solver python sim kills soak bench-farm

manual: ## prints this
	@echo 'Wattfarm: what each layer of a neural network costs on each device of a farm.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Says what is missing, all at once, rather than failing halfway through a build.
setup: ## checks for compilers and gets libtorch (540 MB, once)
	@missing=; for tool in cargo rustc $${CXX:-c++} python3; do \
		command -v $$tool > /dev/null || missing="$$missing $$tool"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "not found:$$missing" >&2; \
		echo 'cargo and rustc come with https://rustup.rs; the others on Debian and Ubuntu with' >&2; \
		echo '  sudo apt-get install g++ python3 python3-pip' >&2; \
		exit 2; \
	fi
	@$(SETUP_LIBTORCH)

# The demo would say so itself, but not before everything is downloaded and built.
budget:
	@[[ '$(BUDGET)' =~ ^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$$ && '$(BUDGET)' == *[1-9]* ]] || \
		{ echo 'BUDGET=$(BUDGET) is not a duration, such as 90s, 5m or 1h30m' >&2; exit 2; }

# `exec`: the demo itself gets Ctrl-C, and ends its processes before make returns.
demo: budget setup ## measures this machine for BUDGET=5m, then compares predicted with measured networks
	cargo build --release --workspace
	@exec $(TARGET)/release/wattfarm demo --budget $(BUDGET)

demo-clean: ## forgets what the demo has measured
	rm -rf target/demo

pip:
	@python3 -m pip --version > /dev/null 2>&1 || { echo 'not found: pip for python3, which on Debian and Ubuntu comes with' >&2; \
		echo '  sudo apt-get install python3-pip' >&2; exit 2; }
# Binaries without what only a debugger needs, and the scripts. A box that is older than this one may lack its C library:
# the newest version that a binary wants is printed.
KIT := target/gpu-kit
gpu-kit: setup ## makes target/gpu-kit, a folder that measures a box with an NVIDIA GPU
	cargo build --release --workspace
	@rm -rf $(KIT) && mkdir -p $(KIT)/bin
	@cp deploy/gpu-kit/run.sh deploy/gpu-kit/kit.py deploy/gpu-kit/README.md LICENSE $(KIT)/
	@for name in wattfarm wattfarm-agent wattfarm-coordinator wattfarm-trainer; do \
		strip -o $(KIT)/bin/$$name $(TARGET)/release/$$name || exit 1; \
	done
	@echo "$(KIT): $$(du -sm $(KIT) | cut -f1) MiB, for glibc $$(grep -aoh 'GLIBC_2\.[0-9]*' $(KIT)/bin/* | \
		sort -Vu | tail -1 | cut -d_ -f2) or later"
	@[ $$(du -sm $(KIT) | cut -f1) -lt 60 ] || { echo 'too large: it has to be under 60 MiB' >&2; exit 1; }

# The kit on this machine's CPU, with a simulated NVIDIA driver for its power: what a GPU box would do, but for the GPU.
test-gpu-kit: gpu-kit ## runs the kit for two minutes on the CPU, with a simulated driver
	LIBTORCH=$(LIBTORCH) deploy/gpu-kit/test.sh $(KIT) $(TARGET)/release

# Packages of Python's that tests want, once: those that a file lists, into a folder.
define PYTHON_PACKAGES
cmp --silent $(1) $(2)/installed.txt || { rm -rf $(2) && python3 -m pip install --quiet --target $(2) -r $(1) && \
	cp $(1) $(2)/installed.txt; }
endef
PYTHON_TEST_PACKAGES = $(call PYTHON_PACKAGES,python/requirements-test.txt,target/python)

# The whole workspace is built first: some tests start the other packages' binaries. Python's packages go into a folder of
# ours: a system's own Python may refuse to install any.
test: setup pip ## runs all tests
	@compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || command -v initdb > /dev/null || echo 'NOTE: PostgreSQL is not installed, so the tests of a store in a database are skipped (on Debian and Ubuntu: postgresql)' >&2
	@[ -d ../shared ] || echo 'NOTE: ../shared is not there, so tests against published measurements are skipped' >&2
	cargo build --workspace
	cargo test --workspace
	@$(PYTHON_TEST_PACKAGES)
	PYTHONPATH=target/python WATTFARM_BINARIES=$(TARGET)/debug python3 python/tests/test_protocol.py

# What `make test` has in small: as long as you like.
COORDINATOR_TESTS := cargo test --release -p wattfarm-coordinator --test it --
export SEED STEPS KILLS AGENTS JOBS ROUNDS STORE MINUTES

sim: ## lives through simulated farms from SEED=0 on, for STEPS=1000000 events
	$(COORDINATOR_TESTS) --ignored --nocapture simulation::from_the_environment

kills: ## kills the real coordinator KILLS=200 times under load
	KILLS=$(or $(KILLS),200) $(COORDINATOR_TESTS) --nocapture kill::what_was_acknowledged_survives_sigkill

bench-farm: ## loads the real coordinator over loopback with AGENTS=1000 and JOBS=100000, and a queue in PostgreSQL beside it
	$(COORDINATOR_TESTS) --ignored --nocapture load::a_thousand_agents

soak: ## keeps the real coordinator under load for MINUTES=10: nothing may grow
	$(COORDINATOR_TESTS) --ignored --nocapture load::soak::nothing_grows

# Builds the package where it lies, in python/wattfarm, and tests it against a real farm. Networks from PyTorch's modules are
# tested where torch and onnxscript can be imported: TORCH=1 brings them.
PYTHON_PATH := target/python:target/python-notebook:target/python-torch$(if $(PYTHONPATH),:$(PYTHONPATH))
python: pip ## builds and tests the Python package; TORCH=1 gets PyTorch for it (5 GB, once)
	cargo build
	cargo fmt --manifest-path python/Cargo.toml --check
	cargo clippy --release --manifest-path python/Cargo.toml -- -D warnings
	@$(PYTHON_TEST_PACKAGES)
	@$(call PYTHON_PACKAGES,python/requirements-notebook.txt,target/python-notebook)
	@$(if $(TORCH),$(call PYTHON_PACKAGES,python/requirements-torch.txt,target/python-torch))
	PYTHONPATH=$(PYTHON_PATH) python3 python/build.py
	@for test in package torch notebook; do echo "python/tests/test_$$test.py"; \
		PYTHONPATH=$(PYTHON_PATH) WATTFARM_BINARIES=$(TARGET)/debug python3 python/tests/test_$$test.py || exit 1; done

bench-predict: ## times predictions of single layers, by WATTFARM_MODELS=models.json or the largest model that there may be
	cargo test --release --package wattfarm-cost --test speed -- --ignored --nocapture

# Wants shared/data beside the repository, and for the peers a Python with scikit-learn and celer (PYTHON).
bench-solver: ## times our lasso beside scikit-learn's and celer's, on layers that others published
	WATTFARM_SOLVER=$(CURDIR)/target/solver cargo test --release --package wattfarm-trainer --test published_data -- --ignored \
		--nocapture solver
	$(or $(PYTHON),python3) trainer/tests/published_data/peers.py target/solver

check: setup ## checks format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Wants a quiet machine, and half an hour of it. What BENCHMARKS.md has, with its date and machine.
BENCH := target/bench
AGENT = $(TARGET)/release/wattfarm-agent --device cpu --state $(BENCH)/agent
bench: setup gpu-kit ## prints the additivity gap, how well figures repeat, and the share of time spent measuring
	@rm -rf $(BENCH) && mkdir -p $(BENCH)
	@$(AGENT) additivity --batch 1 --keep $(BENCH)/additivity.jsonl > /dev/null
	@$(AGENT) additivity --batch 8 --keep $(BENCH)/additivity.jsonl
	@$(AGENT) self-check
	@WATTFARM_LIBTORCH_LIB=$(LIBTORCH)/lib $(KIT)/run.sh --minutes 2 --device cpu --power off --networks '' --out $(BENCH)/duty
	@grep 'of measuring' $(BENCH)/duty/report.md

# Wants PyTorch and a few packages more: the generator's first lines name them. Files that are there are not made again.
bench-onnx: bench-files ## exports every network of torchvision, and reads them against fvcore's counts
	python3 onnx/tests/generate.py torchvision target/torchvision
	WATTFARM_TORCHVISION=$(CURDIR)/target/torchvision cargo test --release --package wattfarm-onnx --test torchvision \
		-- --ignored --nocapture

# Nothing but Rust: the files are written by the test.
bench-files: ## times predictions from large files, as whole processes
	cargo test --release --package wattfarm --test command_line -- --ignored --nocapture
