#!/usr/bin/env bash
# Sourced by the other scripts, from the repository's root: makes .venv if there is none, installs the package into it
# with the extras named in $1, and puts its Python first on the PATH. Nothing outside .venv is touched.
set -euo pipefail
if [ ! -x .venv/bin/python ]; then
    echo "Making the virtual environment .venv"
    "${PYTHON:-python3}" -m venv .venv
fi
stamp=.venv/installed-${1:-base}
if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ]; then
    echo "Installing videoms_hf and its dependencies into .venv (several GB, a few minutes)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${1:+[$1]}"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
