"""Generates the Python stubs of proto/ into clients/python-api, or checks that they are up to date.

protoc writes imports that start at the proto package (`from rlm.v1 import ...`). A top-level package called `rlm` would
collide with the one of the same name on PyPI, so the stubs live in `rlm_api` and their imports are rewritten.

Usage: python scripts/generate_stubs.py [--check]
"""

from __future__ import annotations

import argparse
import filecmp
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PACKAGE = ROOT / "clients/python-api/src/rlm_api"
SUBPACKAGES = ("rlm", "sandbox")

_ABSOLUTE_IMPORT = re.compile(
    r"^(?P<indent>\s*)(?:from (?P<package>(?:rlm|sandbox)\.v1) import|import (?P<module>(?:rlm|sandbox)\.v1\.\w+) as)",
    re.MULTILINE,
)


def generate(target: Path) -> None:
    """Writes the stubs of every proto file below `target`."""
    google_protos = Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    plugin = Path(sysconfig.get_path("scripts"))
    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={google_protos}",
        f"--plugin=protoc-gen-mypy={plugin / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugin / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet,readable_stubs:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    for path in target.rglob("*.py*"):
        path.write_text(_rewrite_imports(path.read_text()))
    for subpackage in SUBPACKAGES:
        for package in (target / subpackage, target / subpackage / "v1"):
            (package / "__init__.py").write_text("")


def _rewrite_imports(source: str) -> str:
    source = _ABSOLUTE_IMPORT.sub(
        lambda match: (
            f"{match['indent']}from rlm_api.{match['package']} import"
            if match["package"]
            else f"{match['indent']}import rlm_api.{match['module']} as"
        ),
        source,
    )
    # The typed stubs also name modules in full: `import rlm.v1.event_pb2` and later `rlm.v1.event_pb2.Event`.
    source = re.sub(r"^import ((?:rlm|sandbox)\.v1\.\w+)$", r"import rlm_api.\1", source, flags=re.MULTILINE)
    return re.sub(r"(?<![\w./\"'])((?:rlm|sandbox)\.v1\.\w+_pb2)", r"rlm_api.\1", source)


def outdated(fresh: Path) -> list[str]:
    """Returns the stub files, relative to the package, that differ from those in `fresh`, or that only one side has."""
    names = {
        str(path.relative_to(base))
        for base in (fresh, PACKAGE)
        for subpackage in SUBPACKAGES
        for path in (base / subpackage).rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    _, differing, missing = filecmp.cmpfiles(fresh, PACKAGE, sorted(names), shallow=False)
    return sorted(differing + missing)


def main() -> None:
    """Generates or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if the stubs are out of date")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        changed = outdated(fresh)
        if options.check:
            if changed:
                sys.exit("out of date, run `make generate`: " + ", ".join(changed))
            return
        for subpackage in SUBPACKAGES:
            shutil.rmtree(PACKAGE / subpackage, ignore_errors=True)
            shutil.copytree(fresh / subpackage, PACKAGE / subpackage)


if __name__ == "__main__":
    main()
