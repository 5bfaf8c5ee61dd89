#!/usr/bin/env bash
# Makes a component of src/app.py: dist/hello-python.wasm. Needs Python 3.10 or newer; installs into .venv and nowhere else.
set -euo pipefail
cd "$(dirname "$0")"
out=dist/hello-python.wasm

[ -x .venv/bin/pip ] || python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
mkdir -p dist
# Packages of the component's own would be looked for in this environment.
VIRTUAL_ENV=$PWD/.venv .venv/bin/componentize-py --quiet --wit-path ../wit --world hello \
  componentize --python-path src --output "$out" app
echo "$out: $(stat --format %s "$out") bytes"
