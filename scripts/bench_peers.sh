#!/usr/bin/env bash
# Installs the peers into a directory of their own, build/peers, and measures the sandbox server beside them.
#
#   scripts/bench_peers.sh [--markdown docs/benchmarks.md]
#
# pyeryx and Monty need a CPython of at least 3.12: the one that PEERS_PYTHON names, or the first one found. Pyodide
# needs npm, and node for one of its rows. What cannot be installed is left out of the table.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=build/peers
mkdir -p "$peers"

python=${PEERS_PYTHON:-}
for candidate in python3.13 python3.12 python3.14 python3; do
    [[ -n $python ]] && break
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
        python=$candidate
    fi
done
if [[ -n $python && ! -e $peers/venv/.done ]]; then
    rm -rf "$peers/venv"
    "$python" -m venv "$peers/venv"
    "$peers/venv/bin/python" -m pip install --quiet --only-binary :all: \
        pyeryx==0.11.0 pydantic-monty==1.4.0 deno==2.9.8 && touch "$peers/venv/.done"
fi
if command -v npm >/dev/null && [[ ! -e $peers/node_modules/pyodide ]]; then
    npm install --silent --no-audit --no-fund --prefix "$peers" pyodide@314.0.7
fi
cp bench/peers/drive_pyodide.mjs "$peers/" # where it finds the package
exec .venv/bin/python -m bench.peers "$peers" "$@"
