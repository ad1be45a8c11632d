# Needs Python 3.11 or later, pip and make. An active environment that can import fuse4seg, torch and nnunetv2 is used
# as it is; else everything goes into .venv, which is made once and again when setup.py or constraints.txt change.

PYTHON ?= python3
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
TEST_WORKERS ?= auto

# Asked outside this folder, so that the checkout itself does not answer for an installed package.
USABLE := import fuse4seg, torch, nnunetv2, pytest, xdist, hypothesis, sysconfig; print(sysconfig.get_path("scripts"))
BIN := $(shell for python in "$$VIRTUAL_ENV/bin/python" "$$CONDA_PREFIX/bin/python" "$(PYTHON)"; do \
	(cd / && "$$python" -c '$(USABLE)') 2>/dev/null && break; done)

ifeq ($(filter-out $(CURDIR)/.venv/bin,$(BIN)),)
BIN := $(CURDIR)/.venv/bin
READY := .venv/.installed
endif

# This checkout comes first, even where the environment holds another one.
HERE := PYTHONPATH="$(CURDIR)" PATH="$(BIN):$$PATH"

.PHONY: help demo test faults bench docs lint venv viewer
help:
	@echo "make demo   phantom, planning, training, prediction and evaluation, into demo/"
	@echo "make test   the whole test suite, but for the long forms of the fault tests"
	@echo "make faults the long forms: kills, full disks, damaged and hostile files, and a table of what they show"
	@echo "make bench  speed and memory beside nnU-Net's on a phantom, into bench/"
	@echo "make docs   the documentation as a site, into build/site/"
	@echo "make lint   ruff"
	@echo "make venv   only set up the environment (here: $(BIN))"

# The viewer of reports, which setup.py fetches for an installed package; without it reports have pictures alone.
viewer: $(READY)
	@$(HERE) "$(BIN)/python" -m fuse4seg.report.fetch_viewer || true

demo: $(READY) viewer
	$(HERE) "$(BIN)/f4s_demo" -o demo

test: $(READY) viewer
	$(HERE) OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -m "not faults" -n $(TEST_WORKERS) --maxprocesses 8 --dist loadfile

faults: $(READY)
	$(HERE) OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -m faults tests/faults -n $(TEST_WORKERS) --maxprocesses 8 --dist loadfile

# Ratios to a peer in the same run.
BENCH := $(HERE) "$(BIN)/python" benchmarks
bench: $(READY)
	$(BENCH)/phantom.py --root bench/data
	$(BENCH)/step.py --root bench/data 998 2d -device cpu --rounds 5 -o bench/step.json
	$(BENCH)/memory.py --root bench/data 998 2d -o bench/memory.json
	$(BENCH)/scaling.py -device cpu --rounds 5 -o bench/scaling.json
	$(BENCH)/fusion_metrics.py -o bench/fusion_metrics.json
	$(BENCH)/planning.py --root bench/data 998 --rounds 2 -o bench/planning.json

# An environment that is active may lack what builds the site; .venv has it.
SITE := $(shell sed -n '/^mkdocs-material==/p;/^latex2mathml==/p' constraints.txt)
docs: $(READY)
	@"$(BIN)/python" -c "import latex2mathml, material" 2>/dev/null || "$(BIN)/python" -m pip install -c constraints.txt $(SITE)
	$(HERE) "$(BIN)/python" -m mkdocs build --strict

lint: $(READY)
	"$(BIN)/ruff" check .

venv: $(READY)

# torch comes first and alone, so that pip takes the build it finds for this machine; the rest then fits itself to it.
# A Python without ensurepip still has pip, which can install into the new environment from outside.
.venv/.installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip --python .venv/bin/python install pip; }
	.venv/bin/python -m pip install -c constraints.txt "$(TORCH)"
	.venv/bin/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@
