#!/usr/bin/env bash
# The whole suite: one process without the Triton interpreter, one with it (kernels only, CPU tensors go through the kernels).
# Usage: tests/run.sh BIN_DIRECTORY [pytest arguments]
set -euo pipefail
bin=${1:?usage: tests/run.sh BIN_DIRECTORY [pytest arguments]}
shift
cd "$(dirname "$0")/.."
env -u TRITON_INTERPRET "$bin/python" -m pytest tests -m "not gpu" "$@"
if compgen -G 'tests/kernels/test_*.py' >/dev/null; then
  TRITON_INTERPRET=1 "$bin/python" -m pytest tests/kernels -m "not gpu" "$@"
fi
