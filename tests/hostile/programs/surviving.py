"""Programs that want to go on after they were killed, to be there in the next session, or to speak for another."""

from tests.hostile.programs import program

SPIN = "while True: pass\n"
LOOK = "import builtins, gc, json, os, sys, re, linecache\n"

PROGRAMS = [
    program(
        "finally", "acts when it is killed", "try:\n    " + SPIN + "finally: print('FOUND', flush=True)", "DEADLINE"
    ),
    program(
        "except",
        "catches its end",
        "try:\n    " + SPIN + "except BaseException: print('FOUND', flush=True)",
        "DEADLINE",
    ),
    program(
        "__del__",
        "acts when it is freed",
        "class A:\n    def __del__(self): print('FOUND', flush=True)\na = A()\n" + SPIN,
        "DEADLINE",
    ),
    program(
        "atexit", "acts at the end", "import atexit\natexit.register(print, 'FOUND', flush=True)\n" + SPIN, "DEADLINE"
    ),
    program(
        "weakref",
        "acts when another is freed",
        "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'FOUND', flush=True)\n" + SPIN,
        "DEADLINE",
    ),
    program(
        "generator",
        "acts when it is closed",
        "def g():\n    try: yield\n    finally: print('FOUND', flush=True)\nh = g()\nnext(h)\n" + SPIN,
        "DEADLINE",
    ),
    program(
        "context manager",
        "acts on the way out",
        "import contextlib\nwith contextlib.ExitStack() as s:\n    s.callback(print, 'FOUND', flush=True)\n    " + SPIN,
        "DEADLINE",
    ),
    program(
        "asyncio task",
        "acts when it is cancelled",
        "import asyncio\nasync def f():\n    try: await asyncio.sleep(10 ** 6)\n    finally: print('FOUND', flush=True)\nasyncio.run(f())",
        "DEADLINE",
    ),
    program(
        "signal",
        "acts on a signal",
        "import signal\nfor s in range(1, 30):\n    try: signal.signal(s, lambda *a: print('FOUND', flush=True))\n    except Exception: pass\n"
        + SPIN,
        "DEADLINE",
    ),
    program(
        "hooks",
        "acts where errors are shown",
        "import sys\nsys.excepthook = sys.unraisablehook = sys.exitfunc = lambda *a: print('FOUND', flush=True)\n"
        + SPIN,
        "DEADLINE",
    ),
    program(
        "unfinished call",
        "is answered after its end",
        "ask('first')\nprint('FOUND', flush=True)",
        "DEADLINE",
        calls_host=True,
    ),
    program(
        "plant in modules",
        "leaves something for the next session",
        LOOK
        + "for m in list(sys.modules.values()): m.__dict__['planted'] = 'planted'\nbuiltins.print = lambda *a, **k: None",
    ),
    program(
        "plant in caches",
        "leaves something for the next session",
        LOOK
        + "re.compile('planted')\nlinecache.cache['planted'] = (1, None, ['planted'], 'planted')\nos.environ['planted'] = '1'\nsys.intern('planted-by-another')\nsys.path.append('planted')",
    ),
    program(
        "plant in files",
        "leaves something for the next session",
        "import os\nfor p in ('planted', '/tmp/planted', '/dev/null'): open(p, 'w').write('planted' * 1000)",
    ),
    program(
        "plant in memory",
        "fills memory that another may be given",
        "hoard = [b'planted-in-memory' * 1000 for _ in range(3000)]",
    ),
    program(
        "look around",
        "looks for what others left",
        LOOK
        + "w = 'plan' + str('ted')\nfor where, there in (('modules', any(w in m.__dict__ for m in list(sys.modules.values()))), ('re', any(w in str(k) for k in re._cache)), ('lines', w in linecache.cache), ('environment', w in os.environ), ('path', w in sys.path), ('files', os.listdir() + os.listdir('/tmp'))):\n    if there: print('FOUND', where)\nprint('looked')",
        "OK",
        says="looked",
    ),
    program(
        "look into memory",
        "reads memory that was not cleared",
        "w = bytes([112, 108, 97, 110, 116, 101, 100, 45, 105, 110])\nimport io\nfor n in (10 ** 5, 10 ** 6, 10 ** 7):\n    b = bytearray(n)\n    if w in b or any(b): print('FOUND')\nprint('looked')",
        "OK",
        says="looked",
    ),
    program(
        "fake FINAL",
        "answers in the application's name",
        "FINAL = lambda value: print('forged')\nimport sys\np = sys.modules['prelude']\np.FINAL = p.after_cell = None\np.__dict__['answer'] = 'forged'",
    ),
    program(
        "fake after_cell",
        "answers in the application's name, in another way",
        "import app\napp._session.after_cell = lambda: {'answer': 'forged'}",
    ),
]
