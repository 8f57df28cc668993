"""Programs that never end, or not in time."""

from tests.hostile.programs import program

PROGRAMS = [
    program("while true", "spins", "while True: pass", "DEADLINE"),
    program(
        "nested loops", "spins in many frames", "def f(n):\n    while True:\n        if n: f(n - 1)\nf(5)", "DEADLINE"
    ),
    program("big power", "stays in one long C function", "x = 7 ** (10 ** 8)", "DEADLINE"),
    program("big product", "multiplies giants", "x = 3\nwhile True: x *= x", "DEADLINE", "OUT_OF_MEMORY"),
    program("factorial", "stays in math", "import math\nmath.factorial(10 ** 7)", "DEADLINE", "OUT_OF_MEMORY"),
    program(
        "str of giant",
        "converts a giant integer",
        "import sys\nsys.set_int_max_str_digits(0)\nstr(7 ** 10 ** 7)",
        "DEADLINE",
    ),
    program("regex", "backtracks without end", "import re\nre.match(r'(a+)+$', 'a' * 50 + 'b')", "DEADLINE"),
    program("regex alternation", "backtracks", "import re\nre.match(r'(a|a)*$', 'a' * 60 + 'b')", "DEADLINE"),
    program("sum", "iterates inside C", "sum(range(10 ** 12))", "DEADLINE"),
    program("in range", "searches inside C", "1.5 in range(10 ** 12)", "DEADLINE"),
    program(
        "list extend",
        "fills from an endless iterator",
        "import itertools\nlist(itertools.repeat(1))",
        "DEADLINE",
        "OUT_OF_MEMORY",
    ),
    program(
        "deque consume",
        "consumes for ever",
        "import collections, itertools\ncollections.deque(itertools.count(), maxlen=0)",
        "DEADLINE",
    ),
    program("any", "waits for what never comes", "import itertools\nany(x < 0 for x in itertools.count())", "DEADLINE"),
    program(
        "hash collisions",
        "makes a dict quadratic",
        "class K:\n    def __hash__(self): return 1\n    def __eq__(self, o): return self is o\nd = {K(): 0 for _ in range(10 ** 5)}",
        "DEADLINE",
    ),
    program(
        "int hash collisions",
        "makes a set quadratic",
        "s = {i * (2 ** 31 - 1) for i in range(1, 10 ** 5)}",
        "OK",
        "DEADLINE",
    ),
    program(
        "hostile sort",
        "never stops comparing",
        "class K:\n    def __lt__(self, o):\n        while True: pass\nsorted([K(), K()])",
        "DEADLINE",
    ),
    program(
        "sort mutates",
        "changes the list while it is sorted",
        "x = list(range(1000))\nclass K:\n    def __init__(s, v): s.v = v\n    def __lt__(s, o): x.clear(); return s.v < o.v\nx[:] = map(K, x)\nx.sort()",
        "EXCEPTION",
        "OK",
    ),
    program(
        "catch all",
        "catches whatever stops it",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "DEADLINE",
    ),
    program("finally", "goes on in finally", "try:\n    1 / 0\nfinally:\n    while True: pass", "DEADLINE"),
    program(
        "signal handler",
        "ignores signals",
        "import signal\nfor s in range(1, 30):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass",
        "DEADLINE",
    ),
    program("comprehension", "spins in a comprehension", "[0 for _ in iter(int, 1)]", "DEADLINE", "OUT_OF_MEMORY"),
    program(
        "permutations",
        "counts to beyond the stars",
        "import itertools\nsum(1 for _ in itertools.permutations(range(20)))",
        "DEADLINE",
    ),
    program("pow mod", "long arithmetic in C", "pow(3, 10 ** 100000, 10 ** 100000)", "DEADLINE"),
    program(
        "zlib",
        "compresses for ever",
        "import zlib\nz = zlib.compressobj(9)\nwhile True: z.compress(b'ab' * 10 ** 6)",
        "DEADLINE",
    ),
    program(
        "sqlite",
        "loops inside sqlite",
        "import sqlite3\nsqlite3.connect(':memory:').execute('with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c').fetchall()",
        "DEADLINE",
    ),
    program(
        "hash for ever",
        "hashes without end",
        "import hashlib\nh = hashlib.sha256()\nwhile True: h.update(bytes(10 ** 6))",
        "DEADLINE",
    ),
    program(
        "decimal",
        "computes with a giant precision",
        "import decimal\ndecimal.getcontext().prec = 10 ** 6\ndecimal.Decimal(2).sqrt().ln()",
        "DEADLINE",
    ),
    program(
        "unicode",
        "normalises without end",
        "import unicodedata\nwhile True: unicodedata.normalize('NFKD', 'e\\u0301' * 10 ** 6)",
        "DEADLINE",
    ),
    program(
        "compile",
        "compiles huge source",
        "compile('x = ' + ' + '.join(['1'] * 10 ** 6), '', 'exec')",
        "OK",
        "EXCEPTION",
        "DEADLINE",
        "OUT_OF_MEMORY",
        "TRAP",
    ),
]
