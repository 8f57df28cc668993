"""Programs that go too deep."""

from tests.hostile.programs import program

DEEP = "x = []\nfor _ in range(10 ** 5): x = [x]\n"

PROGRAMS = [
    program("plain", "recurses", "def f(): f()\nf()", "EXCEPTION", says="maximum recursion depth"),
    program(
        "raised limit",
        "raises the limit first",
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
        "TRAP",
        "EXCEPTION",
        "OUT_OF_MEMORY",
        "DEADLINE",
    ),
    program(
        "__del__",
        "recurses while it is freed",
        "class A:\n    def __del__(self): A()\nA()\nimport time\ntime.sleep(0.01)",
        "OK",
        "TRAP",
        "DEADLINE",
        "EXCEPTION",
        "OUTPUT_LIMIT",
    ),
    program(
        "__getattr__",
        "looks up for ever",
        "class A:\n    def __getattr__(self, n): return getattr(self, n + 'x')\nA().x",
        "EXCEPTION",
        "OUT_OF_MEMORY",
    ),
    program(
        "__repr__", "shows itself in itself", "class A:\n    def __repr__(self): return repr(self)\nA()", "EXCEPTION"
    ),
    program(
        "__eq__", "compares for ever", "class A:\n    def __eq__(self, o): return self == o\nA() == A()", "EXCEPTION"
    ),
    program("parser parentheses", "nests source", "eval('(' * 10 ** 5 + ')' * 10 ** 5)", "EXCEPTION", "OUT_OF_MEMORY"),
    program("parser lists", "nests source", "eval('[' * 10 ** 5 + ']' * 10 ** 5)", "EXCEPTION", "OUT_OF_MEMORY"),
    program("parser unary", "nests source", "eval('-' * 10 ** 6 + '1')", "EXCEPTION", "OUT_OF_MEMORY"),
    program(
        "compiler",
        "nests a tree",
        "import ast\nx = ast.Constant(1)\nfor _ in range(10 ** 5): x = ast.UnaryOp(ast.USub(), x)\ncompile(ast.fix_missing_locations(ast.Expression(x)), '', 'eval')",
        "EXCEPTION",
        "TRAP",
        "DEADLINE",
    ),
    program("repr of deep", "shows a deep list", DEEP + "repr(x)", "EXCEPTION"),
    program(
        "compare deep", "compares deep lists", DEEP + "y = []\nfor _ in range(10 ** 5): y = [y]\nx == y", "EXCEPTION"
    ),
    program("pickle deep", "pickles a deep list", DEEP + "import pickle\npickle.dumps(x)", "EXCEPTION"),
    program(
        "unpickle deep",
        "loads a deep pickle",
        "import pickle\npickle.loads(b'(' * 10 ** 6 + b'.')",
        "EXCEPTION",
        "OUT_OF_MEMORY",
    ),
    program("json deep", "loads deep JSON", "import json\njson.loads('[' * 10 ** 5)", "EXCEPTION"),
    program("dump deep", "dumps a deep list", DEEP + "import json\njson.dumps(x)", "EXCEPTION"),
    program("deepcopy", "copies a deep list", DEEP + "import copy\ncopy.deepcopy(x)", "EXCEPTION"),
    program(
        "free deep", "frees a deep list", "x = []\nfor _ in range(10 ** 6): x = [x]\ndel x", "OK", "TRAP", "DEADLINE"
    ),
    program("regex deep", "nests groups", "import re\nre.compile('(' * 10 ** 4 + ')' * 10 ** 4)", "EXCEPTION"),
    program(
        "mro",
        "derives for ever",
        "c = object\nfor i in range(10 ** 5): c = type('C', (c,), {})",
        "DEADLINE",
        "OUT_OF_MEMORY",
        "EXCEPTION",
        "TRAP",
        "OK",
    ),
    program(
        "xml deep",
        "nests elements",
        "import xml.etree.ElementTree as E\nE.fromstring('<a>' * 10 ** 5 + '</a>' * 10 ** 5)",
        "OK",
        "EXCEPTION",
        "TRAP",
    ),
    program("generator chain", "yields from for ever", "def g(n):\n    yield from g(n + 1)\nnext(g(0))", "EXCEPTION"),
    program(
        "map chain",
        "stacks iterators",
        "x = iter([1])\nfor _ in range(10 ** 5): x = map(int, x)\nnext(x)",
        "EXCEPTION",
        "TRAP",
        "OK",
    ),
]
