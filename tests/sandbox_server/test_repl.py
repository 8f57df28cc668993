"""What users of a REPL are used to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rlm_api.sandbox.v1 import execute_service_pb2 as pb

from tests.sandbox_server.driver import session

if TYPE_CHECKING:
    from rlm_api.sandbox.v1 import execute_service_pb2_grpc as pb_grpc

    Stub = pb_grpc.ExecuteServiceAsyncStub

SHOWN = {
    "'grüezi \\U0001f600 日本'": "'grüezi \U0001f600 日本'\n",
    "print('grüezi \\U0001f600', end='')": "grüezi \U0001f600",
    "'\\ud800'": "'\\ud800'\n",
    "class A:\n    def __repr__(self): return 'ä'\nA()": "ä\n",
    "x = 1; x; None": "",
    "# nothing": "",
    "await __import__('asyncio').sleep(0, 'slept')": "'slept'\n",
    "import pickle\nclass A: x = 1\npickle.loads(pickle.dumps(A())).x": "1\n",
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\nP()": "P(x=1)\n",
    "import inspect\ndef f(a):\n    return a  # here\ninspect.getsource(f)": "'def f(a):\\n    return a  # here\\n'\n",
    "import argparse\nargparse.ArgumentParser().parse_args([])": "Namespace()\n",
    "import doctest\ndoctest.testmod()": "TestResults(failed=0, attempted=0)\n",
    "__name__": "'__main__'\n",
}


@pytest.mark.parametrize("code", SHOWN)
async def test_a_cell_shows_what_a_repl_would(stub: Stub, code: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert (response.stdout, response.stderr) == (SHOWN[code], ""), response.result.error


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("help(len)", "Return the number of items in a container."),
        ("help(str.title)", "Return a version of the string"),
        ("import json; help(json)", "JSON (JavaScript Object Notation)"),
        ("def f(a: int) -> str:\n    '''Does it.'''\nhelp(f)", "f(a: int) -> str\n    Does it."),
    ],
)
async def test_help_is_written_to_stdout(stub: Stub, code: str, text: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert text in response.stdout, response.result.error


REFUSED = {
    "input('name? ')": "EOFError: there is no standard input in a sandbox: pass data in as an input variable",
    "breakpoint()": "RuntimeError: there is no debugger in a sandbox",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "def f(a):\n    return 1 / a\nf(0)": "line 2, in f\n    return 1 / a\n           ~~^~~\nZeroDivisionError",
    "import json\njson.loads('{')": "File \"<cell 1>\", line 2, in <module>\n    json.loads('{')",
    "x = (": "    x = (\n        ^\nSyntaxError: '(' was never closed",
    "raise ExceptionGroup('g', [ValueError('a'), KeyError('b')])": "---- 2 ----------------\n    | KeyError: 'b'",
    "try: 1 / 0\nexcept Exception as e: raise ValueError('x') from e": "direct cause of the following exception",
}


@pytest.mark.parametrize("code", REFUSED)
async def test_an_error_says_where_and_why(stub: Stub, code: str) -> None:
    response = await stub.Run(pb.RunRequest(code=code))
    assert REFUSED[code] in response.result.error.traceback


async def test_a_traceback_through_several_cells_shows_the_lines_of_each(stub: Stub) -> None:
    async with session(stub) as s:
        await s.run("def f(a):\n    return 1 / a")
        await s.run("def g():\n    return f(0)")
        traceback = (await s.run("g()")).result.error.traceback
    for number, line in ((1, "    return 1 / a"), (2, "    return f(0)"), (3, "    g()")):
        assert f'File "<cell {number}>"' in traceback
        assert line in traceback


async def test_the_last_value_is_there_as_underscore_in_the_next_cell(stub: Stub) -> None:
    async with session(stub) as s:
        assert (await s.run("6 * 7")).result.value_repr == "42"
        assert (await s.run("_ + 1")).stdout == "43\n"
        assert (await s.run("None")).stdout == ""
        assert (await s.run("_")).stdout == "43\n"


async def test_what_goes_to_stderr_is_apart_and_in_order(stub: Stub) -> None:
    code = (
        "import logging, sys, warnings\nprint('1')\nprint('2', file=sys.stderr)\nwarnings.warn('3')\nlogging.error('4')"
    )
    response = await stub.Run(pb.RunRequest(code=code))
    assert response.stdout == "1\n"
    assert [line[-1] for line in response.stderr.splitlines() if line[0] != " "] == ["2", "3", "4"]
