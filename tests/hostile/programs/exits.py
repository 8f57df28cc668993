"""Programs that end the interpreter."""

from tests.hostile.programs import program

PROGRAMS = [
    program("SystemExit", "leaves politely", "raise SystemExit(3)", "EXITED"),
    program("sys.exit", "leaves politely", "import sys\nsys.exit('bye')", "EXITED"),
    program("os._exit", "leaves at once", "import os\nos._exit(5)", "EXITED"),
    program("os.abort", "breaks off", "import os\nos.abort()", "TRAP"),
    program("faulthandler", "crashes on purpose", "import faulthandler\nfaulthandler._sigsegv()", "TRAP", "EXCEPTION"),
    program(
        "raise signal",
        "kills itself",
        "import signal\nsignal.raise_signal(signal.SIGABRT)",
        "TRAP",
        "EXCEPTION",
        "EXITED",
        "OK",
    ),
    program("os.kill", "kills itself by number", "import os\nos.kill(os.getpid(), 9)", "EXCEPTION"),
    program("KeyboardInterrupt", "pretends Ctrl-C", "raise KeyboardInterrupt", "EXCEPTION"),
    program("GeneratorExit", "raises what nobody expects", "raise GeneratorExit", "EXCEPTION"),
    program(
        "exit in atexit",
        "leaves later",
        "import atexit, os\natexit.register(os._exit, 1)\natexit._run_exitfuncs()",
        "EXITED",
    ),
    program(
        "exit in __del__",
        "leaves while it is freed",
        "import os\nclass A:\n    def __del__(self): os._exit(1)\nx = A()\ndel x",
        "EXITED",
    ),
    program(
        "exit in repr",
        "leaves while it is shown",
        "import os\nclass A:\n    def __repr__(self): os._exit(1)\nA()",
        "EXITED",
    ),
    program(
        "exit in traceback",
        "leaves while it fails",
        "import os\nclass E(Exception):\n    def __str__(self): os._exit(1)\nraise E",
        "EXITED",
    ),
    program(
        "SystemExit subclass",
        "leaves with a trick",
        "class E(SystemExit):\n    code = property(lambda s: 1 / 0)\nraise E",
        "EXITED",
        "EXCEPTION",
        "TRAP",
    ),
]
