#!/usr/bin/env bash
# Iterative preference training: sample, judge, pair, train, examine, and again from what came out. docs/iterative.md explains it.
#
#   ./iterate.sh [ROUNDS] [further options of `train.py fit`]
#
# Environment: PYTHON, OUT (folder of all rounds), POLICY (the model to start from), PROBLEMS (to sample for, a round), SAMPLE, FIT (experiments).
set -euo pipefail
ROUNDS=${1:-2}
shift || true
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/iterate}
POLICY=${POLICY:-assets/arithmetic/base}
PROBLEMS=${PROBLEMS:-400}
SAMPLE=${SAMPLE:-configs/experiment/arithmetic_sample.yaml}
FIT=${FIT:-configs/experiment/arithmetic_dpo.yaml}

for ((ROUND = 0; ROUND < ROUNDS; ROUND++)); do
  HERE=$OUT/round_$ROUND
  # 1. Sample from the policy as it is now, for problems of this round's own, and judge. A killed round goes on where it stopped.
  $PYTHON train.py predict --config "$SAMPLE" --model.policy.init_args.path "$POLICY" \
    --data.task.init_args.num_pool "$PROBLEMS" --data.task.init_args.seed "$ROUND" --data.seed "$ROUND" \
    --trainer.callbacks.init_args.pool "$HERE/pool.jsonl" --trainer.logger.init_args.save_dir "$HERE" --trainer.logger.init_args.name sample
  # 2. Its best response to a problem against its worst (scenario 1), where they score apart; train on these pairs.
  if ! ls -d "$HERE"/train/version_*/policy > /dev/null 2>&1; then
    $PYTHON train.py fit --config "$FIT" --model.policy.init_args.path "$POLICY" \
      --data.pool "$HERE/pool.jsonl" --data.scenario 1 --data.shared '[1]' \
      --trainer.logger.init_args.save_dir "$HERE" --trainer.logger.init_args.name train "$@"
  fi
  # 3. The next round starts from what came out, which is examined first.
  POLICY=$(ls -d "$HERE"/train/version_*/policy | tail -n 1)
  $PYTHON train.py test --config "$FIT" --model.policy.init_args.path "$POLICY" --data.pool "$HERE/pool.jsonl" \
    --trainer.logger.init_args.save_dir "$HERE" --trainer.logger.init_args.name test
done
echo "The policy after $ROUNDS rounds: $POLICY"
