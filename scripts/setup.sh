#!/usr/bin/env bash
# Makes .venv with everything the lock file pins, and installs this tree's distributions into it. Does nothing if that
# was done before and neither the lock nor a pyproject.toml has changed since.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "RLM Server needs Python 3.11 or later; this is $("$python" --version). Set PYTHON to another interpreter." >&2
  exit 1
}

distributions=(clients/python-api clients/python common rlm_server sandbox_server)
stamp=.venv/setup.stamp
state=$("$python" --version; cat requirements/dev.lock "${distributions[@]/%//pyproject.toml}" scripts/setup.sh | cksum; pwd)
if [[ -f $stamp && $(<"$stamp") == "$state" ]]; then
  exit 0
fi

echo "Setting up .venv (once; a minute or two) ..." >&2
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes \
  -r requirements/dev.lock
# As pip would, but on all cores; as with pip it is no failure that a package brings a file that this Python cannot read.
.venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null || true
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
  "${distributions[@]/#/--editable=}"
echo "$state" >"$stamp"
