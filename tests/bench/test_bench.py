"""`python -m bench --quick`, from the command line to the tables: that it works, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(__file__).resolve().parents[2]
_PARTS = [
    "fresh-run",
    "live-session",
    "host-calls",
    "context",
    "iteration",
    "durability",
    "kept",
    "load",
    "throughput",
    "stopping",
    "many-sessions",
    "pure-python",
]


def _bench(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=_ROOT, check=False, capture_output=True, text=True
    )


def _with_places(names: Sequence[str]) -> str:
    return "\n\n".join(f"## {name}\n<!-- bench:{name} -->\nold\n<!-- bench:{name} end -->" for name in names)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a quick run of everything left its results: `run.json`, `stdout` and `document.md`."""
    directory = tmp_path_factory.mktemp("bench")
    document = directory / "document.md"
    document.write_text(_with_places(["machine", *_PARTS]))
    done = _bench(["--quick", "--json", str(directory / "run.json"), "--markdown", str(document)])
    assert done.returncode == 0, done.stderr
    (directory / "stdout").write_text(done.stdout)
    return directory


@pytest.fixture
def run(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "run.json").read_text())
    return loaded


def _rows(run: dict[str, Any], part: str) -> list[dict[str, Any]]:
    (found,) = [one for one in run["parts"] if one["name"] == part]
    return list(found["rows"])


def test_everything_is_measured_by_default(run: dict[str, Any]) -> None:
    assert [part["name"] for part in run["parts"]] == _PARTS


def test_quick_runs_say_that_they_are(run: dict[str, Any], directory: Path) -> None:
    assert run["quick"] is True
    assert run["command"] == "python -m bench --quick"
    assert "too small to mean anything" in (directory / "document.md").read_text()


@pytest.mark.parametrize(
    ("part", "subject", "floor", "bound"),
    [
        ("fresh-run", "fresh `Run`, `x = 1`", "bare wasmtime, `x = 1`", 2.5),
        ("live-session", "live cell, `x = 1`", "empty gRPC call", 3.0),
        ("host-calls", "host call, one by one", "empty gRPC call", 3.0),
    ],
)
def test_what_the_issue_bounds_is_judged_against_its_floor_over_both_transports(
    run: dict[str, Any], part: str, subject: str, floor: str, bound: float
) -> None:
    judged = [row for row in _rows(run, part) if row["subject"]["name"] == subject and row["target"]]
    assert [row["subject"]["transport"] for row in judged] == ["unix", "tcp"]
    for row in judged:
        assert row["floor"]["name"] == floor
        assert row["target"] == {"bound": bound, "absolute": False}
        assert row["ratio"] == pytest.approx(row["subject"]["p50"] / row["floor"]["p50"])
        assert row["met"] is (row["ratio"] <= bound)


def test_the_overhead_of_an_iteration_is_what_model_and_cell_leave_of_it(run: dict[str, Any]) -> None:
    rows = _rows(run, "iteration")
    overheads = [row["subject"] for row in rows if row["subject"]["name"].startswith("overhead")]
    whole = [row for row in rows if row["subject"]["name"].startswith("whole")]
    assert len(overheads) == len(whole) == 4
    for overhead, row in zip(overheads, whole, strict=True):
        assert overhead["mean"] == pytest.approx(row["subject"]["mean"] - row["floor"]["mean"])


def test_a_context_goes_through_both_servers(run: dict[str, Any]) -> None:
    names = {row["subject"]["name"] for row in _rows(run, "context")}
    assert {"1 MB, sandbox server, new text", "1 MB, RLM server, new text"} <= names


def test_throughput_is_counted_for_each_number_of_clients(run: dict[str, Any]) -> None:
    rates = [row for row in _rows(run, "throughput") if row["subject"]["unit"] == "/s"]
    assert {row["subject"]["name"] for row in rates} == {f"fresh `Run`, {count} clients" for count in (1, 4, 16)}
    assert all(row["subject"]["p50"] > 0 for row in rates)


def test_the_tables_are_printed_and_put_into_the_document(directory: Path) -> None:
    printed, document = (directory / "stdout").read_text(), (directory / "document.md").read_text()
    assert "live-session: Cell in a live session" in printed
    assert "\nold\n" not in document
    for part in _PARTS:
        begin, end = f"<!-- bench:{part} -->", f"<!-- bench:{part} end -->"
        assert "| what | over | n | p50 | p99 |" in document.partition(begin)[2].partition(end)[0]


def test_an_unknown_part_is_refused_with_the_names_of_those_there_are() -> None:
    done = _bench(["fresh-runs"])
    assert done.returncode == 2
    assert "there is no part fresh-runs; there are fresh-run, live-session," in done.stderr
