#!/usr/bin/env bash
# The whole suite: one run without the Triton interpreter, one with it (kernels only, CPU tensors go through the kernels).
# Usage: tests/run.sh BIN_DIRECTORY [pytest arguments]; TEST_WORKERS processes (default: one per core, at most four).
set -euo pipefail
bin=${1:?usage: tests/run.sh BIN_DIRECTORY [pytest arguments]}
shift
cd "$(dirname "$0")/.."
# The console's tests want a browser, which is Debian's own: nothing else is downloaded.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null || true
fi
command -v chromium >/dev/null || echo "NOT RUN: tests of the console in a browser; install chromium" >&2
# One thread a process: the processes share the cores. A file stays in one process, which builds its fixtures once.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
spread=(-n "${TEST_WORKERS:-auto}" --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
env -u TRITON_INTERPRET "$bin/python" -m pytest tests -m "not gpu" "${spread[@]}" "$@"
if compgen -G 'tests/kernels/test_*.py' >/dev/null; then
  TRITON_INTERPRET=1 "$bin/python" -m pytest tests/kernels -m "not gpu" "${spread[@]}" "$@"
fi
