# Each target works alone on a fresh clone of a machine with Python >= 3.11 and a package registry.
#   make demo    the main job on synthetic data, end to end, to a report page
#   make test    all tests          make check   format, lint, types, import directions, docs
#   make docs    the documentation site, in build/docs (open build/docs/index.html)
#   make bench   all benchmarks     make setup   .venv only
#   make mutate  change the code in one place at a time, and count the changes that its tests notice
#   make bench-gpu  what a GPU can measure, and its tests, with PYTHON's own packages and no network; WHEELS=FOLDER has
#                   wheels of what PYTHON lacks
#   make torture jobs of a SLURM of its own, disturbed at random (TRIALS=100); stopped, it goes on
PYTHON ?= python3
DEMO ?= demo
# All but the baseline have the enhanced recipe, so that they differ in their input alone.
DEMO_RUNS := baseline image-only text-only enhanced
TRIALS ?= 100
WHEELS ?=
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: two processes share the cores, and numbers repeat.
RANKS := OMP_NUM_THREADS=1 $(BIN)/accelerate launch --config_file launch/accelerate/cpu2.yaml -m cxr_dist
CXR := OMP_NUM_THREADS=1 $(BIN)/cxr-dist

.PHONY: setup demo test check docs mutate bench bench-gpu torture clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); set PYTHON=python3.12, say"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(CXR) shard shards/demo.yaml --out $(DEMO)/shards
	$(CXR) verify $(DEMO)/shards
	$(RANKS) train demo-baseline --data.shards $(DEMO)/shards --out $(DEMO)/runs/baseline
	$(RANKS) train demo --data.shards $(DEMO)/shards --model.mode image --out $(DEMO)/runs/image-only
	$(RANKS) train demo --data.shards $(DEMO)/shards --model.mode text --out $(DEMO)/runs/text-only
	$(RANKS) train demo --data.shards $(DEMO)/shards --out $(DEMO)/runs/enhanced
	printf '%s\n' $(DEMO_RUNS) | xargs -P 2 -I RUN env $(CXR) evaluate $(DEMO)/runs/RUN --mc-samples 30
	$(CXR) compare $(DEMO_RUNS:%=$(DEMO)/runs/%) --out $(DEMO)/comparison
	@echo 'Look at the results:'
	@echo '  xdg-open $(DEMO)/comparison/report.html      (or open the file in a browser)'
	@echo '  $(BIN)/tensorboard --logdir $(DEMO)/runs'

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_imports.py
	$(MAKE) docs

# Without network: whatever the pages need is in the repository.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=10

mutate: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutate]'
	OMP_NUM_THREADS=1 nice $(BIN)/python -m benchmarks.mutation

bench: setup
	for name in loader workers sharding plan step roofline text original bf16_auc memory scaling exact_sums pretrain startup \
	    checkpoint mc_dropout faults damaged_images checkpoint_faults resized_run coverage; do \
	  $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.page

# Each on its own: one that fails does not keep the others from their results.
bench-gpu:
	test -z "$(WHEELS)" || $(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target build/site $(WHEELS)/*.whl
	export PYTHONPATH=$(CURDIR)/build/site; failed=; \
	for name in step roofline text original bf16_auc memory scaling startup mc_dropout; do \
	  $(PYTHON) -m benchmarks.$$name || failed="$$failed $$name"; done; \
	$(PYTHON) -m benchmarks.page; \
	$(PYTHON) -m pytest -m cuda $$(grep -rl --include='test_*.py' mark.cuda tests) || failed="$$failed tests"; \
	test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

torture: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/slurm/torture.py --trials $(TRIALS)

clean:
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis build mutants
