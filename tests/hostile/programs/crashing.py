"""Programs that break the interpreter inside its sandbox, with bytecode and interfaces that trust their caller."""

from tests.hostile.programs import program

ANY = ("OK", "EXCEPTION", "TRAP", "DEADLINE", "OUT_OF_MEMORY", "EXITED", "OUT_OF_FUEL")
REPLACE = "def f(x): return x + 1\nc = f.__code__\n"

PROGRAMS = [
    program(
        "random bytecode",
        "runs noise",
        REPLACE + "f.__code__ = c.replace(co_code=bytes(range(0, 256)) * 4)\nf(1)",
        *ANY,
    ),
    program(
        "bad opcodes",
        "runs opcodes that there are not",
        REPLACE + "f.__code__ = c.replace(co_code=b'\\xff' * 100)\nf(1)",
        *ANY,
    ),
    program("empty bytecode", "runs nothing", REPLACE + "f.__code__ = c.replace(co_code=b'')\nf(1)", *ANY),
    program(
        "stack size",
        "overflows the value stack",
        REPLACE + "f.__code__ = c.replace(co_stacksize=0)\n[f(i) for i in range(1000)]",
        *ANY,
    ),
    program(
        "giant stack size",
        "asks for a giant frame",
        REPLACE + "f.__code__ = c.replace(co_stacksize=2 ** 28)\nf(1)",
        *ANY,
    ),
    program("constants", "points past the constants", REPLACE + "f.__code__ = c.replace(co_consts=())\nf(1)", *ANY),
    program(
        "names",
        "points past the names",
        "def f(): return print\nf.__code__ = f.__code__.replace(co_names=())\nf()",
        *ANY,
    ),
    program(
        "exception table",
        "jumps out of the code",
        REPLACE + "f.__code__ = c.replace(co_exceptiontable=bytes([0x80, 0x7f, 0x7f, 0x7f]) * 10)\nf('x')",
        *ANY,
    ),
    program(
        "jump out",
        "jumps past the end",
        "def f():\n    while True: pass\nb = bytearray(f.__code__.co_code)\nb[-1] = 255\nf.__code__ = f.__code__.replace(co_code=bytes(b))\nf()",
        *ANY,
    ),
    program(
        "wrong variables",
        "claims more locals than there are",
        REPLACE
        + "f.__code__ = c.replace(co_nlocals=1, co_varnames=('x',), co_code=bytes([c.co_code[0], 0, 85, 200]) * 8)\nf(1)",
        *ANY,
    ),
    program(
        "marshal",
        "loads noise",
        "import marshal\nfor i in range(256):\n    try: marshal.loads(bytes([i]) + bytes(range(64)))\n    except Exception: pass",
        *ANY,
    ),
    program(
        "marshal code",
        "loads a made-up code object",
        "import marshal\nd = bytearray(marshal.dumps(compile('x = 1', '', 'exec')))\nfor i in range(0, len(d), 3):\n    e = bytearray(d); e[i] ^= 0xff\n    try: exec(marshal.loads(bytes(e)))\n    except Exception: pass",
        *ANY,
    ),
    program("pickle", "loads a hostile pickle", "import pickle\npickle.loads(b'cos\\nabort\\n(tR.')", *ANY),
    program(
        "type mutation",
        "changes bases under objects",
        "class A: pass\nclass B(A): pass\nclass C: __slots__ = ('x',)\ntry: B.__bases__ = (C,)\nexcept TypeError: B.__bases__ = (dict,)",
        *ANY,
    ),
    program(
        "mutating key",
        "changes a dict while it is searched",
        "class K:\n    def __hash__(s): return 1\n    def __eq__(s, o): d.clear(); return False\nd = {K(): i for i in range(10)}\nd[K()]",
        *ANY,
    ),
    program(
        "shrinking list",
        "shrinks a list while it is used",
        "class K:\n    def __index__(s): x.clear(); return 5\nx = [1] * 10\nx[K()]\nx[2:K()]",
        *ANY,
    ),
    program(
        "buffer",
        "frees memory that is in view",
        "b = bytearray(10)\nm = memoryview(b)\ndel b\nm.release()\nm[0]",
        "EXCEPTION",
    ),
    program(
        "resize under view",
        "resizes memory that is in view",
        "b = bytearray(10)\nm = memoryview(b)\nb.extend(b'x' * 10 ** 6)",
        "EXCEPTION",
    ),
    program(
        "weakref",
        "brings back what is being freed",
        "import weakref\nx = []\nclass A:\n    def __del__(s): x.append(s)\nfor _ in range(1000): weakref.ref(A(), x.append)",
        *ANY,
    ),
    program(
        "gc resurrection",
        "brings back garbage again and again",
        "import gc\nclass A:\n    def __init__(s): s.me = s\n    def __del__(s): keep.append(s); s.me = s\nkeep = []\nfor _ in range(100): A(); gc.collect(); keep.clear()",
        *ANY,
    ),
    program(
        "async close",
        "breaks generators while they close",
        "async def g():\n    try: yield\n    finally: yield\na = g()\na.asend(None).send(None) if False else None\na.aclose().close()",
        *ANY,
    ),
    program("struct", "unpacks with giant formats", "import struct\nstruct.calcsize('1000000000x' * 4)", *ANY),
    program("array", "indexes out of range", "import array\na = array.array('b', [0])\na[2 ** 40]", "EXCEPTION"),
    program(
        "sre template",
        "runs hostile regex code",
        "import _sre\n_sre.compile('x', 0, [2 ** 31 - 1] * 10, 0, {}, ())",
        *ANY,
    ),
    program(
        "re nested repeat",
        "multiplies repeats",
        "import re\nre.compile('(?:(?:a{1000}){1000}){1000}').match('a' * 10 ** 5)",
        *ANY,
    ),
    program(
        "ast lies",
        "compiles a tree that is none",
        "import ast\ncompile(ast.Module([ast.Expr(ast.Constant(object()))], []), '', 'exec')",
        "EXCEPTION",
    ),
    program("int digits", "parses a giant number", "int('1' * 10 ** 6)", "EXCEPTION"),
    program(
        "datetime",
        "leaves the calendar",
        "import datetime\ndatetime.datetime.max + datetime.timedelta(10 ** 9)",
        "EXCEPTION",
    ),
    program("slots", "reads a slot of another type", "class A: __slots__ = ('x',)\nA.x.__get__(object())", "EXCEPTION"),
    program(
        "interned",
        "compares by address what was freed",
        "import sys\nfor i in range(10 ** 5): sys.intern(f'name{i}')",
        *ANY,
    ),
]
