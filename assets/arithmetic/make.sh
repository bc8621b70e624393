#!/usr/bin/env bash
# Makes everything in this folder anew, from nothing: tokenizer, base model, a weaker model, and the response pool of both.
# About 40 minutes on one CPU core. Run it in the project's root; results go to runs/, what is shipped is copied by hand.
set -euo pipefail
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/arithmetic_assets}
export OMP_NUM_THREADS=1

$PYTHON -m datamodules.tasks.arithmetic.tokenizer "$OUT/tokenizer"

# The base model: 1,200 steps of 32 problems, 15% of the solutions in bare equations.
$PYTHON train.py fit --config configs/experiment/arithmetic_sft.yaml --data.tokenizer "$OUT/tokenizer" \
  --trainer.logger.init_args.save_dir "$OUT" --trainer.logger.init_args.name base --trainer.logger.init_args.version 0

# The "other" model: less than half the steps, 85% of the solutions in bare equations, other weights, other problems.
$PYTHON train.py fit --config configs/experiment/arithmetic_sft.yaml --data.tokenizer "$OUT/tokenizer" \
  --trainer.logger.init_args.save_dir "$OUT" --trainer.logger.init_args.name other --trainer.logger.init_args.version 0 \
  --trainer.max_steps 800 --model.lr_scheduler.init_args.num_steps 800 --model.policy.init_args.seed 1 \
  --data.task.init_args.num_train 25600 --data.task.init_args.terse_share 0.85 --data.task.init_args.seed 1

# Eight candidates a problem from each, judged; the data set's own solutions come with them.
for SOURCE in policy:base weaker:other; do
  $PYTHON train.py predict --config configs/experiment/arithmetic_sample.yaml \
    --model.policy.init_args.path "$OUT/${SOURCE#*:}/version_0/policy" \
    --trainer.callbacks.init_args.pool "$OUT/${SOURCE%:*}.jsonl" --trainer.callbacks.init_args.source "${SOURCE%:*}"
done
$PYTHON -m datamodules.pool merge "$OUT/policy.jsonl" "$OUT/weaker.jsonl" --output "$OUT/pool.jsonl.xz"
$PYTHON -m datamodules.pool stats "$OUT/pool.jsonl.xz"
