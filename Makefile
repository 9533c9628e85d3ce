# Every target makes the environment first, once: .venv is keyed on requirements.txt and pyproject.toml.
#   make sft RECIPE=recipes/llama2-7b/chat.yaml ARGS="--launch recipes/accelerate/ddp.yaml"
PYTHON ?= python3
RECIPE ?= recipes/tiny/chat.yaml
ARGS ?=

VENV := .venv
FT := $(VENV)/bin/python -m ft
STAMP := $(VENV)/.installed

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install sft dpo gatt reward sample ppo llama2 eval tools vision report export base chat show stats plan run test test-newest bench lint format clean
.DEFAULT_GOAL := help

help: ## what there is
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv with everything the project needs

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); ok or sys.exit(f"ft needs Python 3.11 to 3.13, and {sys.executable} is {sys.version.split()[0]}. Say PYTHON=python3.12")'
	@echo "making $(VENV) with everything in requirements.txt; the first time this takes some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $(STAMP)

sft: $(STAMP) ## train RECIPE as far as its SFT stage and show what it learnt
	$(FT) run "$(RECIPE)" --to sft $(ARGS)

gatt: RECIPE = recipes/tiny/gatt-ablation.yaml
gatt: $(STAMP) ## Ghost Attention: rows, training, recall by turn before and after, and the ablation
	$(FT) run "$(RECIPE)" --jobs 2 $(ARGS)

dpo: RECIPE = recipes/tiny/dpo.yaml
dpo: $(STAMP) ## train the embedded chat model on preferences, its SFT first, and show what it learnt
	$(FT) run "$(RECIPE)" --to dpo $(ARGS)

kto: RECIPE = recipes/tiny/kto.yaml
kto: $(STAMP) ## train the embedded chat model on labels alone, its SFT first, and show what it learnt
	$(FT) run "$(RECIPE)" --to kto $(ARGS)

reward: RECIPE = recipes/tiny/reward.yaml
reward: $(STAMP) ## train two reward models on graded pairs, helpful and safe, and show what they rank right
	$(FT) run "$(RECIPE)" $(ARGS)

sample: RECIPE = recipes/tiny/sample.yaml
sample: $(STAMP) ## rejection sampling: the best of eight answers by a reward model, SFT on these, and what it gained
	$(FT) run "$(RECIPE)" --to best-sft $(ARGS)

summarize: RECIPE = recipes/tiny/summarize.yaml
summarize: $(STAMP) ## summaries: questions, a judge, preference pairs, DPO, and the table before and after, twice
	$(FT) run "$(RECIPE)" $(ARGS)

ppo: RECIPE = recipes/tiny/ppo.yaml
ppo: $(STAMP) ## a reward model, its report card, PPO against it, and what a program says of the answers
	$(FT) run "$(RECIPE)" --to ppo $(ARGS)

llama2: RECIPE = recipes/tiny/llama2.yaml
llama2: $(STAMP) ## the whole chain of the Llama 2 paper: reward models, V1 to V4 by rejection sampling, PPO, Ghost Attention
	$(FT) run "$(RECIPE)" $(ARGS)

report: $(STAMP) ## one offline page of what RECIPE has made; ARGS="OTHER" compares it with another recipe or run
	$(FT) report "$(RECIPE)" $(ARGS)

export: $(STAMP) ## export the newest model of RECIPE (LoRA merged, card, Modelfile) to runs/export/
	$(FT) run "$(RECIPE)" --to sft
	$(FT) export "$(RECIPE)" $(ARGS)

eval: RECIPE = recipes/tiny/eval.yaml
eval: $(STAMP) ## eval loss, answers against references, and the model after DPO judged against the one before
	$(FT) run "$(RECIPE)" $(ARGS)

tools: RECIPE = recipes/tiny/tools.yaml
tools: $(STAMP) ## teach the embedded model calls of two tools, and count which are right
	$(FT) run "$(RECIPE)" $(ARGS)

vision: RECIPE = recipes/tiny/vision.yaml
vision: $(STAMP) ## BLIP-2 in both stages on drawn pictures: retrieval, captions, questions and dialogues about held-out ones
	$(FT) run "$(RECIPE)" $(ARGS)

families: $(STAMP) ## train the causal chat model, a prefix language model and a T5, and show what each has learnt
	for one in chat prefix-lm t5; do $(FT) run recipes/tiny/$$one.yaml --to sft $(ARGS) || exit; done

run: $(STAMP) ## run every stage of RECIPE
	$(FT) run "$(RECIPE)" $(ARGS)

plan: $(STAMP) ## say what of RECIPE is done, what is pending, and why
	$(FT) plan "$(RECIPE)" $(ARGS)

stats: $(STAMP) ## count RECIPE's rows: turns, lengths, grades, ties and what is broken; DATA=FILE for any rows
	$(FT) stats "$(or $(DATA),$(RECIPE))" $(ARGS)

show: $(STAMP) ## preview tokenized rows of RECIPE and their loss mask
	$(FT) show "$(RECIPE)" $(ARGS)

chat: $(STAMP) ## talk to the newest model of RECIPE
	$(FT) chat "$(RECIPE)" $(ARGS)

base: $(STAMP) ## make the embedded base model again, from its corpus
	$(FT) run recipes/tiny/base.yaml $(ARGS)

test: $(STAMP) ## run the tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n auto --dist worksteal $(ARGS)

# A fixed torch, and what the five bring with them as new as they ask for it. Always looked up anew.
NEWEST := .venv-newest
test-newest: ## run the tests with the newest transformers, trl, peft, datasets and accelerate, in .venv-newest
	@$(PYTHON) -m venv $(NEWEST)
	@sed -E 's/^(transformers|trl|peft|datasets|accelerate|huggingface_hub|tokenizers|safetensors)==[^ ]*/\1/' requirements.txt > $(NEWEST)/requirements.txt
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")' >> $(NEWEST)/requirements.txt
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -r $(NEWEST)/requirements.txt
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@$(NEWEST)/bin/python -m pip list --disable-pip-version-check 2>/dev/null | grep -E '^(torch|transformers|trl|peft|datasets|accelerate) '
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q -n auto --dist worksteal $(ARGS)

bench: $(STAMP) ## ours against the peers, in docs/benchmarks.md; LLAMAFACTORY_CLI=COMMAND takes LLaMA-Factory in
	HF_HUB_OFFLINE=1 $(VENV)/bin/python benchmarks/all.py $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP) ## let ruff write the code's layout
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

clean: ## remove .venv and caches; results in runs/ stay
	rm -rf $(VENV) $(NEWEST) .mypy_cache .ruff_cache .pytest_cache build src/ft.egg-info
