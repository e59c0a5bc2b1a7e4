#!/bin/sh
# Builds the extension with the test fixtures into the virtual environment $VIRTUAL_ENV (default: the cached one).
set -eu
cd "$(dirname "$0")"
: "${VIRTUAL_ENV:=$HOME/.cache/corpusmill/venv}"
: "${CARGO_TARGET_DIR:=$HOME/.cache/corpusmill/target}"
export VIRTUAL_ENV CARGO_TARGET_DIR
mkdir -p "$CARGO_TARGET_DIR"
exec flock "$CARGO_TARGET_DIR/.loader-develop.lock" "$VIRTUAL_ENV/bin/maturin" develop --features fixtures "$@"
