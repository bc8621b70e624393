#!/usr/bin/env bash
# Makes the models and pools that the families of docs/results/verdict start from. About 20 minutes on one CPU core.
# Run it in the project's root. data/poems.jsonl.xz and data/rhyme: docs/tasks.md and docs/judges.md say where from.
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
OUT=runs/verdict_bases
export OMP_NUM_THREADS=1

# The second base: 800 steps of a schedule of 1,200, stopped there so that it solves three problems of four.
$PYTHON -m studies.verdict.chores_tokenizer "$OUT/chores_tokenizer"
$PYTHON train.py fit --config configs/experiment/arithmetic_sft.yaml --data.tokenizer "$OUT/chores_tokenizer" \
  --trainer.logger.init_args.save_dir "$OUT" --trainer.logger.init_args.name second --trainer.logger.init_args.version 0 \
  --data.task studies.verdict.chores.ChoresTask --data.task.num_train 48000 --data.task.num_test 200 --data.max_length 128 \
  --model.policy.init_args.config '{model_type: llama, vocab_size: 298, hidden_size: 192, intermediate_size: 512, num_hidden_layers: 3, num_attention_heads: 6, num_key_value_heads: 6, max_position_embeddings: 160, tie_word_embeddings: true, initializer_range: 0.07, bos_token_id: null, eos_token_id: 1, pad_token_id: 0}' \
  --trainer.max_steps 800 --model.lr_scheduler.init_args.num_steps 1200
$PYTHON train.py predict --config configs/experiment/arithmetic_sample.yaml --model.policy.init_args.path "$OUT/second/version_0/policy" \
  --data.task studies.verdict.chores.ChoresTask --data.task.num_pool 400 --data.task.is_terse true --data.task.num_slips 4 \
  --data.max_new_tokens 60 --data.prompts_per_batch 100 --trainer.callbacks.init_args.pool "$OUT/second_pool.jsonl"

# The poem model: docs/results/pools/poem.md, with 200 titles.
$PYTHON -m datamodules.tasks.writing.poem_tokenizer data/poems.jsonl.xz runs/poem_tokenizer
$PYTHON train.py fit --config configs/experiment/poem_sft.yaml
$PYTHON train.py predict --config configs/experiment/poem_sample.yaml --data.task.init_args.pool.limit 200
