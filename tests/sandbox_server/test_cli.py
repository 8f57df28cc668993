"""The `rlm-sandbox` command, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def rlm_sandbox(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("rlm-sandbox")), *arguments]
    environment = os.environ | variables
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=100, env=environment
    )


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


def test_run_takes_files_in_and_writes_files_out(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one two")
    code = "open('d.txt', 'w').write(open('in.txt').read().upper() + open('other').read())"
    arguments = ("--file", f"{tmp_path}/in.txt", "--file", f"other={tmp_path}/in.txt")
    done = rlm_sandbox("run", "-", *arguments, "--output", f"d.txt={tmp_path}/out.txt", stdin=code)
    assert (done.returncode, (tmp_path / "out.txt").read_text()) == (0, "ONE TWOone two")
    assert "[files: d.txt (14 bytes)]" in done.stderr


def test_run_says_which_file_it_cannot_write_out(tmp_path: Path) -> None:
    done = rlm_sandbox("run", "-", "--output", f"nothing={tmp_path}/out.txt", stdin="1")
    assert (done.returncode, "--output nothing: there is no such file" in done.stderr) == (3, True)
    assert not (tmp_path / "out.txt").exists()


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
        (("run", "-", "--input", "class=y"), "a name that a variable can have"),
        (("run", "-", "--input", "__builtins__=y"), "a name that a variable can have"),
        (("run", "-", "--input", "x=/dev/null", "--input", "x=/dev/null"), "x is given twice"),
        (("run", "-", "--file", "missing.txt"), "there is no file missing.txt"),
        (("run", "-", "--file", "x=/dev/null"), "there is no file /dev/null"),
        (("run", "-", "--output", "x=no/such/x"), "there is no directory to write it to"),
        (("run", "-", "--scratch-mib", "0"), "Invalid value for '--scratch-mib'"),
        (("run", "-", "--timeout", "-1"), "Invalid value for '--timeout'"),
        (("run", "-", "--timeout", "inf"), "Invalid value for '--timeout'"),
        (("run", "-", "--timeout", "nan"), "Invalid value for '--timeout'"),
        (("run", "-", "--fuel", "0"), "Invalid value for '--fuel'"),
        (("run", "-", "--fuel", "99999999999999999999"), "Invalid value for '--fuel'"),
        (("run", "-", "--memory-mib", "63"), "Invalid value for '--memory-mib'"),
        (("run", "-", "--memory-mib", "4097"), "Invalid value for '--memory-mib'"),
        (("run", "."), ". cannot be read: Is a directory"),
        (("serve", "--log-level", "loud"), "'loud' is not one of"),
        (("serve", "--listen", "nowhere:1:2:3"), "nowhere"),
    ],
)
def test_bad_arguments_are_named_without_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    done = rlm_sandbox(*arguments, stdin="1")
    assert done.returncode in {2, 3}
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_source_that_is_not_utf8_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_bytes(b"x = '\xff'")
    from_file = rlm_sandbox("run", str(tmp_path / "cell.py"))
    assert from_file.stderr == f"rlm-sandbox: {tmp_path / 'cell.py'} is not valid UTF-8 at byte 5\n"
    command = [sys.executable, "-m", "sandbox_server", "run", "-"]
    from_stdin = subprocess.run(command, input=b"x = '\xff'", capture_output=True, check=False, timeout=100)
    assert from_stdin.stderr == b"rlm-sandbox: standard input is not valid UTF-8 at byte 5\n"
    assert (from_file.returncode, from_stdin.returncode) == (3, 3)


def test_an_input_that_is_not_utf8_is_told_by_its_argument(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("good")
    (tmp_path / "bad").write_bytes(b"ab\xff")
    done = rlm_sandbox("run", "-", "--input", f"x={tmp_path / 'good'}", "--input", f"y={tmp_path / 'bad'}", stdin="1")
    assert done.returncode == 3
    assert "--input y: is not valid UTF-8 at byte 2" in done.stderr


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sandbox_server", *arguments]
    pipe = subprocess.PIPE
    # As at a terminal: what runs in the background of a shell is born with SIGINT ignored.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it takes no lock
    )


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_a_cell(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text("print('it runs', flush=True)\nwhile True: pass")
    process = start("run", str(tmp_path / "cell.py"), "--timeout", "1000", "--fuel", str(10**15))
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "it runs\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode not in {0, None}
    assert "Traceback" not in stderr


def test_a_reader_that_has_seen_enough_stops_the_cell(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text("while True: print('line', flush=True)")
    with start("run", str(tmp_path / "cell.py"), "--timeout", "1000", "--fuel", str(10**15)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=20) == 3


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


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"RLM_SANDBOX_CACHE": str(cache)}


def test_doctor_without_an_image_says_how_to_get_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sandbox_server", "doctor"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert f"cache_directory: {tmp_path}\n" in done.stdout
    assert "rlm-sandbox image build" in done.stdout


def test_a_cache_that_cannot_be_written_is_told_before_the_work_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "sandbox_server", "image", "build"]
    done = subprocess.run(
        command, env=environment(tmp_path / "file" / "x"), capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 3
    assert done.stderr == (
        f"rlm-sandbox: the image cache {tmp_path / 'file' / 'x'} cannot be written: Not a directory; "
        "set RLM_SANDBOX_CACHE to a directory that can be\n"
    )


def test_help_lists_the_commands() -> None:
    done = rlm_sandbox("--help")
    assert done.returncode == 0
    for command in ("serve", "run", "doctor", "image"):
        assert command in done.stdout


def test_a_server_is_not_started_with_a_variable_that_does_not_exist() -> None:
    done = rlm_sandbox("serve", RLM_SANDBOX_WORKER="2", RLM_SANDBOX_IMAGE="of the RLM server's")
    assert done.returncode == 2
    assert "RLM_SANDBOX_WORKERS?" in done.stderr
    assert "RLM_SANDBOX_IMAGE" not in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:70000", "127.0.0.1", "unix:"])
def test_a_server_does_not_listen_where_nobody_meant_it_to(address: str) -> None:
    done = rlm_sandbox("serve", RLM_SANDBOX_LISTEN=address)
    assert done.returncode == 2
    assert f"'{address}'" in done.stderr
