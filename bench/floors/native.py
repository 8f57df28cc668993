"""A native interpreter that runs programs and times itself; it needs the standard library only.

Its argument is a file with a JSON object, name to source. It reads names from stdin, one a line, and answers each with
a line: the seconds of processor time that the program's `run()` took.
"""

import json
import sys
import time
from pathlib import Path


def _main() -> None:
    sources = json.loads(Path(sys.argv[1]).read_text())
    programs = {}
    print("ready", file=sys.stderr, flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name not in programs:
            namespace = {"__name__": name}
            exec(compile(sources[name], name, "exec"), namespace)
            programs[name] = namespace["run"]
        start = time.process_time()
        programs[name]()
        print(time.process_time() - start, flush=True)


_main()
