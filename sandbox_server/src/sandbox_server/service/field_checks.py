"""Checks of fields that several requests have: code, names, paths, digests, and what is asked of variables."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING

from sandbox_server.model import MIB, VariableQuery
from sandbox_server.wasm.scratch import MAX_NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_api.sandbox.v1 import execute_service_pb2 as pb
    from rlm_common.errors import Violations

MAX_CODE_BYTES = MIB
MAX_FILES = 100
MAX_JSON_VALUES = 100
MAX_NAME_CHARS = 100
MAX_PATH_CHARS = 1000
MAX_PREVIEW_CHARS = 10_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_code(code: str, path: str, violations: Violations) -> None:
    """Checks source code."""
    if violations.check(bool(code.strip()), path, "must not be empty; send Python source"):
        violations.check(
            len(code.encode()) <= MAX_CODE_BYTES, path, f"must be at most {MAX_CODE_BYTES} bytes; pass data as an input"
        )


def check_path(path: str, field: str, violations: Violations) -> None:
    """Checks the path of a file in the scratch directory."""
    if violations.check(0 < len(path) <= MAX_PATH_CHARS, field, f"must have from 1 to {MAX_PATH_CHARS} characters"):
        names = path.split("/")
        is_plain = not {"", ".", ".."}.intersection(names) and "\0" not in path
        violations.check(
            is_plain, field, "must be names between slashes, as `data/a.csv`, relative to the scratch directory"
        )
        fits = all(len(name.encode()) <= MAX_NAME_BYTES for name in names)
        violations.check(fits, field, f"must have no name of more than {MAX_NAME_BYTES} bytes")


def check_sha256(sha256: str, path: str, violations: Violations) -> bool:
    """Checks a digest."""
    return violations.check(
        _SHA256.fullmatch(sha256) is not None, path, "must be a SHA-256 digest of 64 lower-case hexadecimal digits"
    )


def read_query(query: pb.VariableQuery, path: str, violations: Violations) -> VariableQuery:
    """Reads what a result is to tell of the variables."""
    violations.check(
        len(query.json_values) <= MAX_JSON_VALUES,
        f"{path}.json_values",
        f"must have at most {MAX_JSON_VALUES} elements",
    )
    for index, name in enumerate(query.json_values):
        violations.check(name.isidentifier(), f"{path}.json_values[{index}]", "must be a Python identifier")
    violations.check(
        0 <= query.preview_chars <= MAX_PREVIEW_CHARS,
        f"{path}.preview_chars",
        f"must be from 0 (the default) to {MAX_PREVIEW_CHARS}",
    )
    return VariableQuery(query.include_all, tuple(query.json_values), query.preview_chars or 100, query.include_inputs)


def check_output_files(paths: Sequence[str], violations: Violations) -> None:
    """Checks the paths of files that a result is to have."""
    violations.check(len(paths) <= MAX_FILES, "output_files", f"must have at most {MAX_FILES} elements")
    for index, path in enumerate(paths[:MAX_FILES]):
        check_path(path, f"output_files[{index}]", violations)


def check_name(name: str, path: str, violations: Violations, *, private_prefix: str) -> None:
    """Checks the name of a variable or function.

    Args:
        name: the name.
        path: the field that has it.
        violations: where to tell.
        private_prefix: what names begin with that are not the client's to give.
    """
    valid = name.isidentifier() and not keyword.iskeyword(name) and len(name) <= MAX_NAME_CHARS
    remedy = f"choose an identifier of at most {MAX_NAME_CHARS} characters that is no keyword"
    if violations.check(valid, path, f"{name[:50]!r} is not a name that a variable can have; {remedy}"):
        violations.check(
            not name.startswith(private_prefix), path, f"must not begin with {private_prefix!r}; choose another name"
        )
