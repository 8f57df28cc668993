"""Programs that drown the reader."""

from tests.hostile.programs import program

PROGRAMS = [
    program("one giant line", "writes it all at once", "print('x' * 10 ** 8)", "OUTPUT_LIMIT", "OUT_OF_MEMORY"),
    program("a million lines", "writes line by line", "for i in range(10 ** 6): print(i)", "OUTPUT_LIMIT"),
    program(
        "stderr",
        "writes to the other stream",
        "import sys\nwhile True: print('x' * 100, file=sys.stderr)",
        "OUTPUT_LIMIT",
    ),
    program(
        "binary",
        "writes bytes",
        "import sys\nwhile True: sys.stdout.buffer.write(bytes(range(256)) * 100)",
        "OUTPUT_LIMIT",
    ),
    program(
        "os.write",
        "writes past Python",
        "import os\nfor _ in range(10 ** 5): os.write(1, b'x' * 100)",
        "OUTPUT_LIMIT",
        "DEADLINE",
    ),
    program(
        "both",
        "takes turns",
        "import sys\nwhile True:\n    sys.stdout.write('o'); sys.stderr.write('e')",
        "OUTPUT_LIMIT",
    ),
    program("giant repr", "has it shown", "'x' * 10 ** 7", "OUTPUT_LIMIT"),
    program("giant exception", "has it told", "raise ValueError('x' * 10 ** 7)", "EXCEPTION", says="characters cut"),
    program(
        "giant traceback", "has a deep one told", "def f(n):\n    if n: f(n - 1)\n    else: 1 / 0\nf(900)", "EXCEPTION"
    ),
    program(
        "exception group",
        "has very many told",
        "raise ExceptionGroup('g', [ValueError('x' * 1000)] * 5000)",
        "EXCEPTION",
    ),
    program(
        "warnings",
        "warns without end",
        "import warnings\nwarnings.simplefilter('always')\nwhile True: warnings.warn('x' * 1000)",
        "OUTPUT_LIMIT",
    ),
    program(
        "logging",
        "logs without end",
        "import logging\nwhile True: logging.error('x' * 1000)",
        "OUTPUT_LIMIT",
        "DEADLINE",
    ),
    program(
        "swallow the limit",
        "goes on writing",
        "while True:\n    try: print('x' * 1000)\n    except BaseException: pass",
        "OUTPUT_LIMIT",
        "DEADLINE",
    ),
    program(
        "replace the stream",
        "writes to the old one",
        "import sys\nsys.stdout = sys.stderr\nwhile True: print('x' * 1000)",
        "OUTPUT_LIMIT",
    ),
    program("surrogates", "writes what is no text", "print('\\ud800' * 10)", "OK"),
    program("control characters", "writes what terminals obey", "print('\\x1b]0;owned\\x07\\x1b[2J')", "OK"),
    program(
        "excepthook",
        "prints while it fails",
        "import sys\nsys.excepthook = lambda *a: print('x' * 10 ** 9)\n1 / 0",
        "EXCEPTION",
    ),
]
