# Every target sets up what it needs in .venv; nothing has to be installed by hand.

# Keeps the checkout off sys.path, so that kernels/ and retriever/ are only ever flashmatch.*.
export PYTHONSAFEPATH := 1

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)
# What searches, or knows a processor; not what takes memory or time that no processor changes.
# What numbers come from or go to is the same whatever a processor has, as are labels: masks of what
# is searched.
SEARCHING := tests/kernels tests/retriever/test_kept_bank.py --ignore=tests/kernels/notebook \
	$(foreach name,bank_memory bank_real torch_integration arrays columns bank_names bank_names_states \
	bank_names_stateful bank_frames labels groups workspace_of_ranges,--ignore=tests/kernels/test_$(name).py)
FAULTS ?=
SLICE ?=
N ?= 2000
N_INTERPRETER ?= 150

help:
	@echo "make demo    find photographs in a gallery of photographs; writes demo-out/"
	@echo "make test    the torch leg, the Triton interpreter leg, the compile matrix"
	@echo "make test-limited what searches, again, as machines with fewer instructions run it"
	@echo "make test-dropin  the adapters against the libraries they stand in for, installed for real"
	@echo "make test-theirs  those libraries' own tests, with ours in the place of what they test"
	@echo "make lint    ruff check, ruff format --check, pyright"
	@echo "make bench   the CPU benchmark and its bars, gated by the oracle; appends to bench/results/"
	@echo "make gpu     all to settle on a CUDA device; SLICE=A, B or C: what nine minutes of one settle"
	@echo "make fuzz    property tests with N=$(N) examples each (N_INTERPRETER=$(N_INTERPRETER) interpreted), beside the libraries, then faults"
	@echo "make faults  damaged files and images, kills, interrupts, threads, extremes, counted (FAULTS=\"--kills 1000\" and so on)"
	@echo "make clean   remove .venv and everything generated"

demo: $(VENV)/.installed-demo
	$(BIN)/flashmatch demo

# Threads that wait for work leave their processor to others: two legs at once on two processors
# took 390 s instead of 42 while they did not (Xeon with VNNI, torch 2.15).
test-torch test-without-avx test-one-thread test-libraries test-theirs fuzz faults: export OMP_WAIT_POLICY := PASSIVE

test: test-torch test-interpreter test-compile

test-torch: $(VENV)/.installed-dev
	$(BIN)/pytest tests --ignore=tests/compile --ignore=tests/dropin

test-interpreter: $(VENV)/.installed-dev
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n logical tests/interpreter

test-compile: $(VENV)/.installed-dev
	$(BIN)/pytest tests/compile

# What a processor has cannot be taken away, but torch and oneDNN can be told not to use it. Not with
# a cache of compiled graphs (torch 2.15): what was written for AVX2 is compiled for AVX-512, writes
# past its ends, and the next leg is aborted or wrong.
test-limited: test-without-avx test-one-thread

test-without-avx test-one-thread: export TORCHINDUCTOR_FORCE_DISABLE_CACHES := 1
test-without-avx: $(VENV)/.installed-dev
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest $(SEARCHING)

# What memory takes, and fp64 without a search, the other leg says.
test-one-thread: SEARCHING += --ignore=tests/kernels/test_workspace.py --ignore=tests/kernels/verify
test-one-thread: $(VENV)/.installed-dev
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2_VNNI OMP_NUM_THREADS=1 $(BIN)/pytest $(SEARCHING)

test-dropin: test-theirs test-libraries test-mmpretrain test-onedl

dropin-environments: $(VENV)-dropin/.installed-dropin \
		$(VENV)-mmpretrain/.installed-dropin-mmpretrain $(VENV)-onedl/.installed-dropin-onedl

test-libraries: $(VENV)-dropin/.installed-dropin
	$(VENV)-dropin/bin/pytest tests/dropin --ignore=tests/dropin/mmpretrain \
		--ignore=tests/dropin/theirs

test-mmpretrain: $(VENV)-mmpretrain/.installed-dropin-mmpretrain
	OMP_NUM_THREADS=1 $(VENV)-mmpretrain/bin/pytest tests/dropin/mmpretrain

test-onedl: $(VENV)-onedl/.installed-dropin-onedl
	OMP_NUM_THREADS=1 $(VENV)-onedl/bin/pytest tests/dropin/mmpretrain

test-theirs: dropin-environments
	$(VENV)-dropin/bin/pytest -rsP tests/dropin/theirs -k "not mmpretrain and not onedl"
	$(VENV)-mmpretrain/bin/pytest -rsP tests/dropin/theirs -k mmpretrain
	$(VENV)-onedl/bin/pytest -rsP tests/dropin/theirs -k onedl

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python bench link
	$(BIN)/pyright

fuzz: $(VENV)/.installed-dev $(VENV)-dropin/.installed-dropin
	FLASHMATCH_EXAMPLES=$(N) $(BIN)/pytest -m hypothesis tests --ignore=tests/compile \
		--ignore=tests/dropin
	FLASHMATCH_EXAMPLES=$(N_INTERPRETER) TRITON_INTERPRET=1 OMP_NUM_THREADS=1 \
		$(BIN)/pytest -n logical -m hypothesis tests/interpreter
	FLASHMATCH_EXAMPLES=$(N) $(VENV)-dropin/bin/pytest -m hypothesis tests/dropin \
		--ignore=tests/dropin/mmpretrain
	$(MAKE) faults FAULTS="--corruptions $(N)0 --images $(N)0 --kills $(N) --interrupts $(N) --threads 600 --extremes $(N)"

faults: $(VENV)/.installed-dev
	PYTHONPATH=tests/support $(BIN)/python -m faults $(FAULTS)

bench: $(VENV)/.installed-dev
	$(BIN)/python bench run
	$(BIN)/python bench bars

# The system's Python where it has torch with CUDA: on a borrowed machine nothing can be installed.
gpu:
	@python=$(PYTHON); \
	$$python -c "import torch; exit(not torch.cuda.is_available())" 2>/dev/null || \
		{ $(MAKE) $(VENV)/.installed-dev && python=$(BIN)/python; } && \
	$$python bench gpu $(addprefix --slice ,$(SLICE))

clean:
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks demo-out

%/bin/python:
ifdef UV
	uv venv $*
else
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet uv || echo "no uv: pip it is"
endif

# $(call install,environment,extra)
ifdef UV
install = uv pip install --python $(1)/bin/python --editable ".[$(2)]"
else
install = if [ -x $(1)/bin/uv ]; then \
	$(1)/bin/uv pip install --python $(1)/bin/python --editable ".[$(2)]"; \
	else $(1)/bin/python -m pip install --editable ".[$(2)]"; fi
endif

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(call install,$(VENV),$*)
	touch $@

$(VENV)-dropin/.installed-%: pyproject.toml | $(VENV)-dropin/bin/python
	$(call install,$(VENV)-dropin,$*)
	touch $@

$(VENV)-mmpretrain/.installed-%: pyproject.toml | $(VENV)-mmpretrain/bin/python
	$(call install,$(VENV)-mmpretrain,$*)
	touch $@

# Without its compiled operators mmcv is mmcv-lite.
$(VENV)-onedl/.installed-%: export MMCV_WITH_OPS := 0
$(VENV)-onedl/.installed-%: pyproject.toml | $(VENV)-onedl/bin/python
	$(call install,$(VENV)-onedl,$*)
	touch $@

.PRECIOUS: %/bin/python
.DEFAULT_GOAL := help
.PHONY: help demo test test-limited test-without-avx test-one-thread faults test-dropin test-theirs dropin-environments test-libraries test-mmpretrain test-onedl test-torch test-interpreter test-compile lint fuzz bench gpu clean
