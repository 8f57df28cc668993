"""Programs that turn on the harness around them. They may break their own session, and nothing else."""

from tests.hostile.programs import program

ANY = ("OK", "EXCEPTION", "TRAP", "EXITED", "OUT_OF_MEMORY", "OUTPUT_LIMIT", "DEADLINE")

PROGRAMS = [
    program(
        "builtins",
        "replaces builtins",
        "import builtins\nfor n in ('print', 'len', 'repr', 'isinstance', 'compile', 'exec', 'eval'): setattr(builtins, n, None)",
        *ANY,
    ),
    program("__import__", "replaces import", "import builtins\nbuiltins.__import__ = None", *ANY),
    program("sys.modules", "empties it", "import sys\nsys.modules.clear()", *ANY),
    program(
        "json",
        "replaces what the harness speaks with",
        'import json\njson.dumps = lambda *a, **k: \'{"outcome": "OK"}\'\njson.loads = None',
        *ANY,
    ),
    program("streams", "replaces the streams", "import sys\nsys.stdout = sys.stderr = sys.stdin = None", *ANY),
    program("audit hook", "hears everything", "import sys\nsys.addaudithook(lambda *a: 1 / 0)", *ANY),
    program(
        "audit loop", "stops everything", "import sys\ndef h(*a):\n    while True: pass\nsys.addaudithook(h)", *ANY
    ),
    program(
        "trace", "traces the harness", "import sys\ndef t(*a):\n    raise SystemExit\nsys.settrace(t)\nlen([])", *ANY
    ),
    program("profile", "profiles the harness", "import sys\nsys.setprofile(lambda *a: 1 / 0)", *ANY),
    program(
        "monitoring",
        "monitors the harness",
        "import sys\nm = sys.monitoring\nm.use_tool_id(1, 'x')\nm.set_events(1, m.events.CALL)\nm.register_callback(1, m.events.CALL, lambda *a: 1 / 0)",
        *ANY,
    ),
    program(
        "frames",
        "writes to the harness's variables",
        "import sys\nf = sys._getframe()\nwhile f:\n    for n in list(f.f_locals):\n        try: f.f_locals[n] = None\n        except Exception: pass\n    f = f.f_back",
        *ANY,
    ),
    program(
        "harness session",
        "replaces the harness's session",
        "import sys\na = sys.modules.get('app')\na._session = None\na._HANDLERS.clear()",
        *ANY,
    ),
    program(
        "harness runner",
        "replaces the runner",
        "import cells\ncells.CellRunner.run = lambda *a: {'outcome': 'OK', 'value_repr': 'forged'}",
        *ANY,
    ),
    program(
        "meter",
        "lifts the limit of output",
        "import app, sys\napp._meter._room = 10 ** 18\napp._meter.send = lambda *a: None\nprint('x' * 10 ** 7)",
        *ANY,
    ),
    program(
        "bindings",
        "replaces the WIT bindings",
        "import wit_world\nwit_world.emit = wit_world.call_start = wit_world.call_wait = None",
        *ANY,
    ),
    program(
        "gc objects",
        "empties every dict that it finds",
        "import gc\nfor o in gc.get_objects():\n    if type(o) is dict:\n        try: o.clear()\n        except Exception: pass",
        *ANY,
    ),
    program(
        "gc lists",
        "empties every list that it finds",
        "import gc\nfor o in gc.get_objects():\n    if type(o) is list: o.clear()",
        *ANY,
    ),
    program(
        "functions",
        "replaces the code of every function",
        "import gc, types\ndef x(*a, **k): raise SystemExit\nfor o in gc.get_objects():\n    if type(o) is types.FunctionType:\n        try: o.__code__ = x.__code__\n        except Exception: pass",
        *ANY,
    ),
    program(
        "import hook",
        "serves modules of its own",
        "import sys\nclass F:\n    def find_spec(self, *a): raise SystemExit\nsys.meta_path.insert(0, F())\nimport nothing_like_it",
        *ANY,
    ),
    program(
        "codecs",
        "replaces UTF-8",
        "import codecs\ncodecs.register(lambda n: 1 / 0)\ncodecs.lookup_error = None\n'x'.encode('no-such')",
        *ANY,
    ),
    program("displayhook", "replaces what shows", "import sys\nsys.displayhook = None\n1", *ANY),
    program("recursion limit", "leaves no room", "import sys\nsys.setrecursionlimit(10)", *ANY),
    program(
        "gc threshold", "collects at every step", "import gc\ngc.set_threshold(1)\ngc.set_debug(gc.DEBUG_STATS)", *ANY
    ),
    program(
        "linecache",
        "shows other lines",
        "import linecache\nlinecache.getline = linecache.getlines = None\nlinecache.cache = None\n1 / 0",
        *ANY,
    ),
    program(
        "traceback", "breaks what describes errors", "import traceback\ntraceback.format_exception = None\n1 / 0", *ANY
    ),
    program(
        "str subclass",
        "hands the harness a lie",
        "class S(str):\n    def __len__(self): return -1\n    def encode(self, *a): return self\nprint(S('x'))",
        *ANY,
    ),
    program(
        "repr that is no text",
        "hands the harness a lie",
        "class A:\n    def __repr__(self): return 3\nA()",
        "EXCEPTION",
    ),
    program(
        "metaclass name",
        "has a name that fails",
        "class M(type):\n    @property\n    def __name__(cls): raise SystemExit\nclass E(Exception, metaclass=M): pass\nraise E",
        *ANY,
    ),
    program(
        "emit",
        "writes straight to the output import",
        "import wit_world\nfor _ in range(10 ** 5): wit_world.emit(1, 'x' * 1000)",
        "OUTPUT_LIMIT",
        "DEADLINE",
    ),
    program(
        "emit to nowhere",
        "names streams that there are not",
        "import wit_world\nfor n in (0, 3, 99, 2 ** 32 - 1): wit_world.emit(n, 'x')",
        "OK",
    ),
    program(
        "forged call",
        "calls a function that nobody declared",
        "import wit_world\nprint(wit_world.call_start('rm_rf', '{\"args\": [], \"kwargs\": {}}'))",
        "OK",
        calls_host=True,
    ),
    program(
        "malformed call",
        "sends arguments that are no JSON",
        "import wit_world\nwit_world.call_start('ask', 'not json')",
        "OK",
        calls_host=True,
    ),
    program(
        "wait for nothing",
        "waits for calls that there are not",
        "import wit_world\nwit_world.call_wait('99', 2 ** 64 - 1)",
        "DEADLINE",
    ),
    program("malformed wait", "waits for nonsense", "import wit_world\nwit_world.call_wait('x', 0)", "TRAP"),
    program("empty wait", "waits for none", "import wit_world\nwit_world.call_wait('', 0)", "TRAP"),
    program(
        "forged answer",
        "answers itself",
        "import host_calls\nc = host_calls.host_submit('ask', 1)\nhost_calls.HostCall._arrived[c._id] = {'id': c._id, 'value': 'forged'}\nprint(c.result())",
        "OK",
        says="forged",
        calls_host=True,
    ),
    program(
        "forged result",
        "returns a result of its own",
        "import app\napp._HANDLERS['run'] = lambda r: {'outcome': 'OK'}",
        *ANY,
    ),
    program(
        "result of another shape",
        "returns what the host cannot read",
        "import app\napp._session.run_cell = None\napp._HANDLERS['run'] = lambda r: [1, 2]",
        *ANY,
    ),
    program(
        "giant result",
        "returns a giant",
        "import app\napp._HANDLERS['run'] = lambda r: {'outcome': 'x' * 10 ** 7}",
        *ANY,
    ),
]
