"""The guest's entry: handles the host's requests. Runs inside the sandbox; the host trusts nothing that it says.

Requests are JSON objects. With `reseed`, `random` begins anew first. `do` is one of:
- `set_input`: `name`, `format` (text, json or bytes); the value is what was loaded in parts since the last request.
- `declare`: `functions`, a list of `name`, `doc` and `schema` (JSON, or empty).
- `prelude`: the source is what was loaded. The answer's `used_random` tells whether that drew from `random`.
- `set_up`: what was loaded is source that runs in the prelude's module, whose names then become variables.
- `run`: `variables` (a query, see `variables.py`), `output_bytes` (limit); the code is what was loaded.
"""

import json
import linecache
import os
import random
import sys
import types

import event_loop
import host_calls
import image_packages
import image_settling
import preimports
import wit_world
from cells import CellRunner, StopCell
from streams import Meter, NoInput, OutputStream
from variables import describe

preimports.import_all()
preimports.import_packages(image_packages.MODULES, image_packages.REQUIRED)
event_loop.install()

# The user's code runs as `__main__`, as in a REPL, so that pickle, dataclasses and warnings find it.
_main = types.ModuleType("__main__")
_namespace = _main.__dict__
_namespace["__builtins__"] = __builtins__
sys.modules["__main__"] = _main
sys.argv = [""]

_meter = Meter()
_stdout = OutputStream(1, "<stdout>", _meter)
_stderr = OutputStream(2, "<stderr>", _meter)


def _flush_quietly():
    _stdout.hand_over()
    _stderr.hand_over()


host_calls.before_crossing.append(_flush_quietly)


class Session:
    """The state of the one session that this interpreter serves."""

    def __init__(self):
        self.parts = []
        self.runner = CellRunner(_namespace)
        self.provided = {}  # names that the harness put into the namespace, and their values
        self.restored = {}  # those of them that are put back after each cell
        self.after_cell = None
        self.prelude = types.ModuleType("prelude")

    def take_loaded(self):
        """Returns what was loaded since the last time."""
        text = "".join(self.parts)
        self.parts.clear()
        return text

    def set_input(self, request):
        """Sets a variable."""
        text = self.take_loaded()
        if request["format"] == "json":
            value = json.loads(text)
        elif request["format"] == "bytes":
            value = text.encode("latin-1")
        else:
            value = text
        _namespace[request["name"]] = value
        self.provided[request["name"]] = value
        return {}

    def declare(self, request):
        """Puts host functions into the namespace."""
        for index, function in enumerate(request["functions"]):
            name = function["name"]
            schema = json.loads(function["schema"]) if function["schema"] else None
            try:
                made = host_calls.make_function(name, function["doc"], schema)
            except Exception as error:
                return {"error": f"{type(error).__name__}: {error}", "index": index}
            _namespace[name] = self.provided[name] = made
            self.restored[name] = _namespace[name]
        return {}

    def run_prelude(self, request):
        """Runs the prelude's source in a module of its own."""
        sys.modules["prelude"] = self.prelude
        self.prelude.__dict__.update(
            variables=_namespace,
            host_call=host_calls.host_call,
            host_submit=host_calls.host_submit,
            wait_any=host_calls.wait_any,
            HostCallError=host_calls.HostCallError,
            StopCell=StopCell,
        )
        before = random.getstate()
        failed = self._run_in_prelude("<prelude>")
        return failed or {"used_random": random.getstate() != before}

    def set_up(self, request):
        """Runs more source in the prelude's module, and provides what that offers."""
        failed = self._run_in_prelude("<prelude setup>")
        if failed:
            return failed
        try:
            for name in getattr(self.prelude, "__all__", ()):
                _namespace[name] = self.provided[name] = self.restored[name] = getattr(self.prelude, name)
        except BaseException as error:
            return {"error": f"{type(error).__name__}: {error}"}
        self.after_cell = getattr(self.prelude, "after_cell", None)
        return {}

    def _run_in_prelude(self, filename):
        source = self.take_loaded()
        if not source:
            return {}
        _use_streams()
        try:
            exec(compile(source, filename, "exec"), self.prelude.__dict__)
        except BaseException as error:
            return {"error": f"{type(error).__name__}: {error}"}
        _flush_quietly()
        if _meter.exceeded:
            return {"error": "output, which nobody reads before the first cell"}
        return {}

    def run_cell(self, request):
        """Runs a cell."""
        _use_streams()
        _meter.start_cell(request["output_bytes"])
        result = self.runner.run(self.take_loaded())
        self._finish(result)
        query = request["variables"]
        hidden = self.restored if query["include_inputs"] else self.provided
        result["variables"], result["variables_omitted_count"] = describe(_namespace, query, hidden)
        _flush_quietly()  # to the end, as `repr()` of a variable may write too
        if _meter.exceeded:
            # Whatever became of the exception that said so.
            result["outcome"] = "OUTPUT_LIMIT"
            result.setdefault(
                "error", {"type": "OutputLimitExceeded", "message": "the cell wrote too much", "traceback": ""}
            )
        result["output_dropped_bytes"] = _meter.dropped_bytes
        return result

    def _finish(self, result):
        if self.after_cell is not None:
            try:
                result["after_cell_json"] = json.dumps(self.after_cell())
            except BaseException as error:
                result["after_cell_error"] = f"{type(error).__name__}: {error}"
        _namespace.update(self.restored)


def _refuse_debugger(*_args, **_kwargs):
    raise RuntimeError("there is no debugger in a sandbox, as nobody could answer it: print what is to be seen")


def _use_streams():
    sys.stdin, sys.stdout, sys.stderr = NoInput(), _stdout, _stderr


_SEED_BYTES = 32

_session = Session()
_HANDLERS = {
    "set_input": _session.set_input,
    "declare": _session.declare,
    "prelude": _session.run_prelude,
    "set_up": _session.set_up,
    "run": _session.run_cell,
}


class WitWorld(wit_world.WitWorld):
    """The exports of the world `guest`."""

    def load(self, part):
        """Takes a part of a large text."""
        _session.parts.append(part)

    def handle(self, request):
        """Handles a request."""
        request = json.loads(request)
        if "reseed" in request:
            # In place of what the state was made of, which others may know; all of it would be ten calls of the host.
            # With a bit before it: a number of another length would use other fuel, at the expense of the first cell.
            random.seed(int.from_bytes(b"\x01" + os.urandom(_SEED_BYTES)))
        try:
            answer = _HANDLERS[request["do"]](request)
        except BaseException as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        # A surrogate without its other half, which code may give anything that it names, is no text for the host.
        return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace").decode()


_WARM_UP_REQUEST = json.dumps(
    {
        "do": "run",
        "output_bytes": 1 << 20,
        "variables": {"include_all": True, "json_values": ["x"], "preview_chars": 100, "include_inputs": False},
    }
)
_WARM_UP_CELLS = (
    "x = 1",
    "x + 1",
    "print('text', x)",
    "def f(a, b=2):\n    return [i * a for i in range(b)]\nx = f(3)\nx",
    "import json, re\nx = {'a': re.findall(r'\\w+', 'some words'), 'b': f'{len(str(x)):>10}'}\njson.dumps(x)",
    "try:\n    x.missing\nexcept AttributeError as error:\n    x = str(error)\nfor i in range(3):\n    x += str(i)",
    "1 / 0",
)
_WARM_UP_ROUNDS = 30


def _warm_up():
    """Runs cells, so that the interpreter has specialised this harness's code and filled its caches."""
    clean = dict(_namespace)
    streams = sys.stdin, sys.stdout, sys.stderr
    world = WitWorld()
    _meter.send = lambda *_: None  # nobody listens while the image is built
    for code in _WARM_UP_CELLS * _WARM_UP_ROUNDS:
        world.load(code)
        world.handle(_WARM_UP_REQUEST)
    del _meter.send
    sys.stdin, sys.stdout, sys.stderr = streams
    _session.__init__()
    _namespace.clear()
    _namespace.update(clean)
    linecache.cache.clear()


_warm_up()

sys.breakpointhook = _refuse_debugger
# What is imported from now on can only be a file that the code itself wrote, or was given; compiling it is no trouble.
sys.path[:] = [""]
sys.path_importer_cache.clear()
sys.dont_write_bytecode = True

image_settling.settle()
