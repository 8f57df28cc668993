"""All hostile programs."""

from __future__ import annotations

from tests.hostile.programs import (
    Program,
    blocking,
    cpu,
    crashing,
    exits,
    files,
    memory,
    output,
    outside,
    recursion,
    surviving,
    tampering,
)

FAMILIES = {
    "blocking": blocking.PROGRAMS,
    "cpu": cpu.PROGRAMS,
    "crashing": crashing.PROGRAMS,
    "exits": exits.PROGRAMS,
    "files": files.PROGRAMS,
    "memory": memory.PROGRAMS,
    "output": output.PROGRAMS,
    "outside": outside.PROGRAMS,
    "recursion": recursion.PROGRAMS,
    "surviving": surviving.PROGRAMS,
    "tampering": tampering.PROGRAMS,
}

CORPUS: dict[str, Program] = {f"{family}: {one.name}": one for family, all_of in FAMILIES.items() for one in all_of}
