"""Checks requests field by field, and turns them into the vocabulary of sandboxes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from rlm_common.errors import ServiceError, Violations

from sandbox_server.model import (
    MIB,
    STANDARD_IMAGE,
    FileInput,
    FileSource,
    Input,
    Limits,
    SandboxSpec,
    ValueFormat,
    VariableQuery,
)
from sandbox_server.service.field_checks import (
    MAX_CODE_BYTES,
    MAX_FILES,
    MAX_NAME_CHARS,
    check_code,
    check_name,
    check_output_files,
    check_path,
    check_sha256,
    read_query,
)
from sandbox_server.service.host_functions import read_functions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox_server.blobs import Blob, BlobCache

MAX_INPUTS = 100
MAX_CELL_ID_CHARS = 100
MAX_RUN_OUTPUT_BYTES = 4 * MIB
MIN_MEMORY_BYTES = 64 * MIB
MAX_CHUNK_BYTES = MIB

_FORMATS = {
    pb.VALUE_FORMAT_UNSPECIFIED: ValueFormat.TEXT,
    pb.VALUE_FORMAT_TEXT: ValueFormat.TEXT,
    pb.VALUE_FORMAT_JSON: ValueFormat.JSON,
    pb.VALUE_FORMAT_BYTES: ValueFormat.BYTES,
}


class RequestReader:
    """Reads the parts that requests share.

    Args:
        blobs: where uploaded inputs are.
        default_limits: for requests that give none.
        max_limits: the greatest that a request can have.
        images: names of the guest images that there are.
    """

    def __init__(self, blobs: BlobCache, default_limits: Limits, max_limits: Limits, images: Sequence[str]) -> None:
        self._blobs = blobs
        self._default_limits = default_limits
        self._max_limits = max_limits
        self._images = images

    def read_run(self, request: pb.RunRequest) -> tuple[SandboxSpec, VariableQuery, list[Blob]]:
        """Reads everything of a `Run` but the code, which is checked.

        Raises:
            ServiceError: a field is wrong, or names what is not there.
        """
        violations = Violations()
        check_code(request.code, "code", violations)
        limits = self.read_limits(request.limits, "limits", self._default_limits, violations)
        inputs, blobs = self.read_inputs(request.inputs, "inputs", violations)
        files, file_blobs = self.read_files(request.files, "files", violations)
        check_output_files(request.output_files, violations)
        query = read_query(request.variables, "variables", violations)
        limits = replace(limits, output_bytes=min(limits.output_bytes, MAX_RUN_OUTPUT_BYTES))
        spec = SandboxSpec(limits=limits, inputs=inputs, files=files)
        spec = _with_seed(spec, request.seed, violations, given=request.HasField("seed"))
        violations.raise_if_any()
        return replace(spec, image=self._find_image(request.image)), query, blobs + file_blobs

    def read_open(self, request: pb.OpenSession) -> tuple[SandboxSpec, list[Blob]]:
        """Reads the `open` of a session.

        Raises:
            ServiceError: a field is wrong, or names what is not there.
        """
        violations = Violations()
        limits = self.read_limits(request.limits, "open.limits", self._default_limits, violations)
        inputs, blobs = self.read_inputs(request.inputs, "open.inputs", violations)
        files, file_blobs = self.read_files(request.files, "open.files", violations)
        functions = read_functions(request.host_functions, violations)
        source = request.prelude.source
        violations.check(
            len(source.encode()) <= MAX_CODE_BYTES, "open.prelude.source", f"must be at most {MAX_CODE_BYTES} bytes"
        )
        setup = request.prelude.setup
        violations.check(
            len(setup.encode()) <= MAX_CODE_BYTES, "open.prelude.setup", f"must be at most {MAX_CODE_BYTES} bytes"
        )
        spec = SandboxSpec(
            limits=limits,
            inputs=inputs,
            files=files,
            host_functions=functions,
            prelude=source,
            prelude_setup=setup,
        )
        spec = _with_seed(spec, request.seed, violations, given=request.HasField("seed"), prefix="open.")
        violations.raise_if_any()
        return replace(spec, image=self._find_image(request.image)), blobs + file_blobs

    def read_limits(self, limits: pb.Limits, path: str, defaults: Limits, violations: Violations) -> Limits:
        """Reads limits: what is absent or 0 is the default, what is over the greatest is lowered."""
        for name in ("fuel", "memory_bytes", "output_bytes", "scratch_bytes"):
            violations.check(
                getattr(limits, name) >= 0, f"{path}.{name}", "must not be negative; leave it out for the default"
            )
        seconds = limits.wall_time.seconds + limits.wall_time.nanos / 1e9
        violations.check(seconds >= 0, f"{path}.wall_time", "must not be negative; leave it out for the default")
        violations.check(
            limits.memory_bytes <= 0 or limits.memory_bytes >= MIN_MEMORY_BYTES,
            f"{path}.memory_bytes",
            f"must be at least {MIN_MEMORY_BYTES}: the interpreter itself needs about 35 MiB",
        )
        return Limits(
            fuel=limits.fuel or defaults.fuel,
            memory_bytes=limits.memory_bytes or defaults.memory_bytes,
            wall_time_seconds=seconds or defaults.wall_time_seconds,
            output_bytes=limits.output_bytes or defaults.output_bytes,
            scratch_bytes=limits.scratch_bytes or defaults.scratch_bytes,
        ).capped(self._max_limits)

    def read_inputs(
        self, inputs: Iterable[pb.Input], path: str, violations: Violations
    ) -> tuple[tuple[Input, ...], list[Blob]]:
        """Reads inputs, with the blobs that they are in.

        Raises:
            ServiceError: a blob is not in the cache.
        """
        read: list[Input] = []
        blobs: list[Blob] = []
        names: set[str] = set()
        for index, one in enumerate(inputs):
            here = f"{path}[{index}]"
            if index == MAX_INPUTS:
                violations.add(path, f"must have at most {MAX_INPUTS} elements")
                break
            check_name(one.name, f"{here}.name", violations, private_prefix="__")
            violations.check(one.name not in names, f"{here}.name", "is given twice; names must be unique")
            names.add(one.name)
            kind = one.WhichOneof("value")
            if kind is None:
                violations.add(here, "has no value; set one of text, json, data, blob")
            elif kind == "blob":
                blob = self._read_blob(one.blob, here, violations)
                if blob is not None:
                    blobs.append(blob)
                    read.append(Input(one.name, _FORMATS[one.blob.format], FileSource(str(blob.path))))
            elif kind == "data":
                read.append(Input(one.name, ValueFormat.BYTES, one.data))
            else:
                read.append(Input(one.name, ValueFormat(kind), getattr(one, kind).encode()))
        return tuple(read), blobs

    def read_files(
        self, files: Iterable[pb.FileInput], path: str, violations: Violations
    ) -> tuple[tuple[FileInput, ...], list[Blob]]:
        """Reads files, with the blobs that they are in.

        Raises:
            ServiceError: a blob is not in the cache.
        """
        read: list[FileInput] = []
        blobs: list[Blob] = []
        paths: set[str] = set()
        for index, one in enumerate(files):
            here = f"{path}[{index}]"
            if index == MAX_FILES:
                violations.add(path, f"must have at most {MAX_FILES} elements")
                break
            check_path(one.path, f"{here}.path", violations)
            violations.check(one.path not in paths, f"{here}.path", "is given twice; paths must be unique")
            paths.add(one.path)
            kind = one.WhichOneof("content")
            if kind == "blob_sha256":
                if check_sha256(one.blob_sha256, f"{here}.blob_sha256", violations):
                    violations.raise_if_any()
                    blob = self.find_blob(one.blob_sha256)
                    blobs.append(blob)
                    read.append(FileInput(one.path, FileSource(str(blob.path))))
            else:
                read.append(FileInput(one.path, one.text.encode() if kind == "text" else one.data))
        return tuple(read), blobs

    def _read_blob(self, reference: pb.BlobInput, path: str, violations: Violations) -> Blob | None:
        known = violations.check(
            reference.format in _FORMATS, f"{path}.blob.format", "is not a value of ValueFormat that this server knows"
        )
        if not check_sha256(reference.sha256, f"{path}.blob.sha256", violations) or not known:
            return None
        violations.raise_if_any()
        return self.find_blob(reference.sha256)

    def find_blob(self, sha256: str) -> Blob:
        """Returns a blob of the cache.

        Raises:
            ServiceError: NOT_FOUND.
        """
        blob = self._blobs.get(sha256)
        if blob is None:
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "BLOB_NOT_FOUND",
                f"no blob {sha256} is in the cache; upload it with UploadBlob and try again",
                metadata={"sha256": sha256},
            )
        return blob

    def _find_image(self, name: str) -> str:
        """Returns the image that a request names, or means if it names none.

        Raises:
            ServiceError: NOT_FOUND, with the images that there are.
        """
        if name and name not in self._images:
            available = ", ".join(self._images)
            raise ServiceError(
                grpc.StatusCode.NOT_FOUND,
                "IMAGE_NOT_FOUND",
                f"there is no image {name[:MAX_NAME_CHARS]!r}; this server has {available}",
                metadata={"image": name[:MAX_NAME_CHARS], "available": available},
            )
        return name or STANDARD_IMAGE


def _with_seed(
    spec: SandboxSpec, seed: pb.Seed, violations: Violations, *, given: bool, prefix: str = ""
) -> SandboxSpec:
    if not given:
        return spec
    clock_start_ns = None
    if seed.HasField("clock_start_time"):
        clock_start_ns = seed.clock_start_time.seconds * 1_000_000_000 + seed.clock_start_time.nanos
        violations.check(clock_start_ns >= 0, f"{prefix}seed.clock_start_time", "must not be before 1970")
    return replace(spec, seed=seed.value, clock_start_ns=clock_start_ns)
