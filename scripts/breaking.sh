#!/usr/bin/env bash
# Compares the contracts with the last landed state, and fails if a client of that would break: usage breaking.sh [REF].
# Without REF: where this branch left origin/main; on main itself, the last commit, or the one before it if nothing has
# changed since.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! git rev-parse --git-dir >/dev/null 2>&1; then
  echo "buf breaking: skipped, as this is no git checkout and so has no landed state" >&2
  exit 0
fi
head=$(git rev-parse HEAD)
base=${1:-$(git merge-base origin/main HEAD 2>/dev/null || true)}
if [[ -z ${1:-} && (-z $base || $base == "$head") ]]; then
  base=$head
  git diff --quiet HEAD -- proto && base=$(git rev-parse --quiet --verify HEAD^ || true)
fi
if [[ -z $base ]] || ! git cat-file -e "$base:proto" 2>/dev/null; then
  echo "buf breaking: skipped, as the landed state is not in this (shallow or new) checkout" >&2
  exit 0
fi
landed=$(mktemp -d)
trap 'rm -rf "$landed"' EXIT
git archive "$base" proto buf.yaml | tar -x -C "$landed"
.venv/bin/buf breaking --against "$landed"
echo "buf breaking: the contracts are compatible with $(git rev-parse --short "$base")" >&2
