#!/usr/bin/env bash
# All GPU measurements in one call, on a machine with PyTorch for CUDA and no network.
#   bash bench/gpu.sh [--out FOLDER]     nine minutes at the most; FOLDER/table.json (default docs/results/gpu)
#   bash bench/gpu.sh --parts step trl   some parts only; --deadline SECONDS for all together
#   bash bench/gpu.sh --dry-run          on any CPU: that every part runs
# Python packages that the machine lacks may lie as wheels in .whl/ (docs/performance.md says how they get there).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi

if compgen -G ".whl/*.whl" >/dev/null; then
  site=$(mktemp -d)
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$PYTHON" -m bench.gpu "$@"
