#!/usr/bin/env bash
# The main job from end to end in .venv (made and filled if need be), on a data set that it renders or on your own:
#   bash scripts/quickstart.sh [--data my/train.csv] [--test my/test.csv] [--output_dir quickstart] ...
set -euo pipefail
repository="$(cd "$(dirname "$0")/.." && pwd)"
folder="$PWD"
cd "$repository"
source scripts/install.sh
cd "$folder"
exec python "$repository/scripts/quickstart.py" "$@"
