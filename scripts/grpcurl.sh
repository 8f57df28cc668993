#!/usr/bin/env bash
# Runs grpcurl with the given arguments: the one on the PATH, or else one that is built once, into .tools/, with Go.
#   scripts/grpcurl.sh -plaintext localhost:50051 list
#   scripts/grpcurl.sh --where      prints where the program is, and does not run it
set -euo pipefail
version=v1.9.4
tools=$(cd "$(dirname "$0")/.." && pwd)/.tools

find_go() {
  local candidate
  for candidate in "$(command -v go || true)" "${GOROOT:+$GOROOT/bin/go}" /usr/local/go/bin/go; do
    if [[ -n $candidate && -x $candidate ]]; then
      echo "$candidate"
      return
    fi
  done
  echo "grpcurl is not on the PATH, and neither is Go, with which it could be built." >&2
  echo "Install one of the two: https://github.com/fullstorydev/grpcurl#installation" >&2
  exit 127
}

program=$(command -v grpcurl || true)
if [[ -z $program ]]; then
  program=$tools/grpcurl-$version/grpcurl
  if [[ ! -x $program ]]; then
    go=$(find_go)
    echo "building grpcurl $version (once, about a minute) ..." >&2
    # A half-made one is never seen, also if two do this at once.
    mkdir -p "$tools"
    scratch=$(mktemp -d "$tools/.build-XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    # Neither C nor optimisation, of which it has no need, makes that a third shorter.
    CGO_ENABLED=0 GOBIN=$scratch "$go" install -gcflags="all=-N -l" -ldflags="-s -w" \
      "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version"
    mkdir -p "$(dirname "$program")"
    mv "$scratch/grpcurl" "$program"
    rm -rf "$scratch"
    trap - EXIT
  fi
fi

if [[ ${1-} == --where ]]; then
  echo "$program"
else
  exec "$program" "$@"
fi
