"""The `rlm-sandbox` command, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def rlm_sandbox(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("rlm-sandbox")), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=100)


def test_run_shows_what_a_file_writes_and_what_it_cost(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
    done = rlm_sandbox("run", str(tmp_path / "cell.py"))
    assert done.returncode == 0
    assert done.stdout == "out\n42\n"
    assert done.stderr.startswith("err\n[OK; ")
    assert "fuel" in done.stderr


def test_run_reads_standard_input_and_inputs_from_files(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("a book")
    done = rlm_sandbox("run", "-", "--input", f"book={tmp_path / 'book.txt'}", stdin="print(len(book))")
    assert done.stdout == "6\n"


def test_run_shows_a_traceback_and_fails() -> None:
    done = rlm_sandbox("run", "-", stdin="1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "[EXCEPTION; " in done.stderr


def test_run_exits_with_the_codes_own_code() -> None:
    assert rlm_sandbox("run", "-", stdin="import sys; sys.exit(7)").returncode == 7


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--timeout", "0.3"), "while True: pass", "DEADLINE"),
        (("--fuel", "100000000"), "while True: pass", "OUT_OF_FUEL"),
        (("--memory-mib", "100"), "bytearray(10 ** 9)", "OUT_OF_MEMORY"),
    ],
)
def test_run_keeps_to_its_limits(arguments: tuple[str, ...], code: str, expected: str) -> None:
    done = rlm_sandbox("run", "-", *arguments, stdin=code)
    assert done.returncode == 1
    assert f"[{expected}; " in done.stderr


def test_run_as_json() -> None:
    done = rlm_sandbox("run", "-", "--json", stdin="6 * 7")
    told = json.loads(done.stdout)
    assert (told["outcome"], told["value_repr"]) == ("OK", "42")
    assert told["usage"]["fuel"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.py"), "missing.py cannot be read: No such file or directory"),
        (("run", "-", "--input", "1x=y"), "give NAME=PATH"),
        (("run", "-", "--input", "x=missing.txt"), "there is no file missing.txt"),
        (("run", "-", "--timeout", "-1"), "Invalid value for '--timeout'"),
        (("serve", "--listen", "nowhere:1:2:3"), "nowhere"),
    ],
)
def test_bad_arguments_are_named_without_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    done = rlm_sandbox(*arguments, stdin="1")
    assert done.returncode in {2, 3}
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_doctor_finds_the_image_and_runs_a_cell() -> None:
    done = rlm_sandbox("doctor", "--json")
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout)
    assert told["problem"] is None
    assert told["trial"].startswith("OK in ")


def test_image_build_says_where_the_image_is() -> None:
    done = rlm_sandbox("image", "build")
    assert done.returncode == 0
    assert "image standard" in done.stderr
