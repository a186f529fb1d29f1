#!/usr/bin/env bash
# All benchmarks of the model on one GPU, bfloat16, eager and compiled; results go to the folder given (default: gpu).
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-gpu}
bench() { python "scripts/benchmarks/$1.py" --device cuda "${@:3}" --output "$out/$2.json"; }
bench step step --sizes base large --batch 16 64 256
bench step step_compiled --sizes base large --batch 16 64 256 --compile default
bench step step_graphs --sizes base large --tasks inference --batch 16 64 256 --compile reduce-overhead
bench memory memory --sizes base --batch 16 64 256
bench scaling scaling --size base --batch 16 64 256
bench end_to_end end_to_end --size base --batch 32 --workers 4 8 16 --num_videos 256
