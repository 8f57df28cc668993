"""`Run`: one piece of code in a fresh sandbox."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import outcome

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub


async def test_the_value_of_the_last_expression_is_shown_as_a_repl_shows_it(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="x = 'a\\n'\nx * 2"))
    assert response.stdout == "'a\\na\\n'\n"
    assert response.result.value_repr == "'a\\na\\n'"
    assert outcome(response.result) == "OK"


@pytest.mark.parametrize("code", ["x = 1", "None", "print('x')", "# nothing"])
async def test_there_is_no_value_without_an_expression_at_the_end(stub: Stub, code: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert not response.result.HasField("value_repr")
    assert outcome(response.result) == "OK"


async def test_stdout_and_stderr_are_told_apart(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="import sys\nprint('out')\nprint('err ü', file=sys.stderr)"))
    assert (response.stdout, response.stderr) == ("out\n", "err ü\n")


async def test_warnings_go_to_stderr_and_name_the_cell(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="import warnings\nwarnings.warn('mind')"))
    assert response.stderr == "<cell 1>:2: UserWarning: mind\n  warnings.warn('mind')\n"


async def test_a_traceback_names_the_cell_and_shows_its_lines_and_nothing_of_the_harness(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="def f(x):\n    return 1 / x\n\nf(0)"))
    error = response.result.error
    assert outcome(response.result) == "EXCEPTION"
    assert (error.type, error.message) == ("ZeroDivisionError", "division by zero")
    assert error.traceback == (
        "Traceback (most recent call last):\n"
        '  File "<cell 1>", line 4, in <module>\n    f(0)\n    ~^^^\n'
        '  File "<cell 1>", line 2, in f\n    return 1 / x\n           ~~^~~\n'
        "ZeroDivisionError: division by zero\n"
    )


async def test_a_syntax_error_points_at_its_place(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="x = (1,\ny = 2"))
    assert outcome(response.result) == "EXCEPTION"
    assert response.result.error.type == "SyntaxError"
    assert "^" in response.result.error.traceback
    assert "'(' was never closed" in response.result.error.message


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("x = 1\nreturn 1", '  File "<cell 1>", line 2\n    return 1\n    ^^^^^^^^\n'),
        ("def g(): await f()", '  File "<cell 1>", line 1\n    def g(): await f()\n             ^^^^^^^^^\n'),
        ("def f():\n    x = 1\n    global x", '  File "<cell 1>", line 3\n    global x\n    ^^^^^^^^\n'),
        ("(yield 1)", '  File "<cell 1>", line 1\n    (yield 1)\n     ^^^^^^^\n'),
        ("  x = 1", '  File "<cell 1>", line 1\n    x = 1\nIndentationError'),
    ],
)
async def test_errors_of_the_compiler_show_the_source_as_well(stub: Stub, code: str, place: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert outcome(response.result) == "EXCEPTION"
    assert response.result.error.traceback.startswith(place)


@pytest.mark.parametrize(
    "before", ["x = '\u2028'\n", "x = 1\f\n", "x = '\x85\x1c'\n", "x = '''\r'''\r\n", "x = 1\r", "x = 1\r\n"]
)
async def test_lines_are_counted_as_python_counts_them(stub: Stub, before: str) -> None:
    response = await stub.Run(pb.RunRequest(code=f"{before}nobody"))
    assert "    nobody\nNameError" in response.result.error.traceback


async def test_inputs_of_all_kinds_become_variables(stub: Stub) -> None:
    request = pb.RunRequest(
        code="print([t, j, d])",
        inputs=[
            pb.Input(name="t", text="ü\0\n"),
            pb.Input(name="j", json='{"a": [1, 2.5, null, "\\ud83d\\ude00"]}'),
            pb.Input(name="d", data=bytes(range(256))),
        ],
    )
    response = await stub.Run(request)
    assert response.stdout == repr(["ü\0\n", {"a": [1, 2.5, None, "😀"]}, bytes(range(256))]) + "\n"


async def test_variables_are_described_on_request(stub: Stub) -> None:
    request = pb.RunRequest(
        code="import math\nn = 3\nwords = ['a'] * 1000\n_hidden = 1\nclass C: pass\nc = C()",
        inputs=[pb.Input(name="given", text="unchanged")],
        variables=pb.VariableQuery(include_all=True, preview_chars=20),
    )
    response = await stub.Run(request)
    told = {one.name: one for one in response.result.variables}
    assert set(told) == {"n", "words", "C", "c"}
    assert (told["n"].type, told["n"].size, told["n"].preview) == ("int", -1, "3")
    assert (told["words"].type, told["words"].size) == ("list", 1000)
    assert told["words"].preview_truncated
    assert len(told["words"].preview) <= 20
    assert told["c"].type == "C"


async def test_values_are_given_as_json_or_it_is_said_why_not(stub: Stub) -> None:
    request = pb.RunRequest(
        code="good = {'a': [1, 'ü']}\nbad = {1, 2}\nlarge = 'x' * 2_000_000",
        variables=pb.VariableQuery(json_values=["good", "bad", "large", "missing"]),
    )
    told = {one.name: one for one in (await stub.Run(request)).result.variables}
    assert json.loads(told["good"].json) == {"a": [1, "ü"]}
    assert not told["bad"].HasField("json")
    assert "set" in told["bad"].json_error
    assert "1048576" in told["large"].json_error.replace(",", "")
    assert "there is no variable" in told["missing"].json_error


async def test_usage_is_told(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="x = bytearray(50_000_000)\nprint('12345')"))
    usage = response.result.usage
    assert usage.fuel > 100_000
    assert 50_000_000 < usage.memory_bytes < 150_000_000
    assert usage.wall_time.ToNanoseconds() > 0
    assert usage.cpu_time.ToNanoseconds() > 0
    assert usage.output_bytes == 6
    assert usage.output_dropped_bytes == 0
    assert usage.host_call_count == 0


async def test_every_run_is_a_fresh_interpreter(stub: Stub) -> None:
    await stub.Run(pb.RunRequest(code="import builtins, json\nbuiltins.leak = json.leak = 1"))
    response = await stub.Run(
        pb.RunRequest(code="import json\nprint(hasattr(json, 'leak'), 'leak' in dir(__builtins__))")
    )
    assert response.stdout == "False False\n"


async def test_input_is_refused_with_the_remedy(stub: Stub) -> None:
    response = await stub.Run(pb.RunRequest(code="input('name? ')"))
    assert response.result.error.type == "EOFError"
    assert "input variable" in response.result.error.message


IMPORTED_BY_MODELS = (
    "abc argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections collections.abc "
    "concurrent.futures configparser contextlib copy csv dataclasses datetime decimal difflib email enum fractions "
    "functools gc glob gzip hashlib heapq hmac html html.parser http.client importlib inspect io itertools json "
    "keyword linecache locale logging math mimetypes numbers operator os os.path pathlib pickle platform pprint "
    "queue random re reprlib sched secrets shlex shutil signal sqlite3 statistics string stringprep struct "
    "subprocess sys sysconfig tempfile textwrap threading time timeit tokenize tomllib traceback types typing "
    "unicodedata unittest urllib.parse urllib.request uuid warnings weakref xml.etree.ElementTree zipfile zlib "
    "zoneinfo "
)


async def test_what_code_from_models_imports_is_there(stub: Stub) -> None:
    code = (
        "import importlib\nmissing = []\n"
        "for name in names.split():\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError: missing.append(name)\n"
        "print(missing)"
    )
    response = await stub.Run(pb.RunRequest(code=code, inputs=[pb.Input(name="names", text=IMPORTED_BY_MODELS)]))
    assert response.stdout == "['bz2']\n", response.result.error.traceback
