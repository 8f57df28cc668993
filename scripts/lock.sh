#!/usr/bin/env bash
# Pins every dependency, with hashes: one lock file for development, one for each server's image.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
# The five distributions are installed from this tree, so their names are left out of the locks.
local_names='^(rlm-api|rlm-client|rlm-common|rlm-server|sandbox-server)(==|$)'

lock() { # output, inputs...
  local output=$1
  shift
  local combined
  combined=$(mktemp)
  for input in "$@"; do
    case $input in
      *.toml) python3 - "$input" <<'PY'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["dependencies"]))
PY
        ;;
      *) cat "$input" ;;
    esac
  done | grep -Ev "$local_names" | sort -u >"$combined"
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    ${UPGRADE:+--upgrade} --output-file "requirements/$output" "$combined"
  rm "$combined"
}

api=clients/python-api/pyproject.toml client=clients/python/pyproject.toml common=common/pyproject.toml
lock sandbox_server.lock "$api" "$common" sandbox_server/pyproject.toml
lock rlm_server.lock "$api" "$client" "$common" rlm_server/pyproject.toml
lock dev.lock requirements/dev.in "$api" "$client" "$common" rlm_server/pyproject.toml sandbox_server/pyproject.toml
