"""Programs that want all the memory there is."""

from tests.hostile.programs import program

PROGRAMS = [
    program("single huge", "asks for it at once", "x = bytearray(10 ** 9)", "OUT_OF_MEMORY"),
    program(
        "beyond the address space",
        "asks for more than 32 bits",
        "x = bytearray(10 ** 12)",
        "OUT_OF_MEMORY",
        "EXCEPTION",
    ),
    program("many small", "asks piece by piece", "x = []\nwhile True: x.append(object())", "OUT_OF_MEMORY", "DEADLINE"),
    program("string doubling", "doubles", "x = 'x'\nwhile True: x += x", "OUT_OF_MEMORY"),
    program("list product", "repeats a list", "x = [0] * 10 ** 9", "OUT_OF_MEMORY"),
    program(
        "nested lists",
        "multiplies lists",
        "x = []\nfor _ in range(64): x = [x, x] * 100",
        "OUT_OF_MEMORY",
        "DEADLINE",
        "OK",
    ),
    program(
        "generators",
        "hoards generators",
        "def g():\n    yield\nx = []\nwhile True: x.append(g())",
        "OUT_OF_MEMORY",
        "DEADLINE",
    ),
    program(
        "dict growth", "grows a dict", "d = {}\ni = 0\nwhile True: d[i] = str(i); i += 1", "OUT_OF_MEMORY", "DEADLINE"
    ),
    program(
        "sqlite",
        "fills a database in memory",
        "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t (x)')\nwhile True: c.execute('insert into t values (zeroblob(1000000))')",
        "OUT_OF_MEMORY",
        "EXCEPTION",
        "DEADLINE",
    ),
    program("repr", "makes a giant text of little", "x = ['\\0' * 10 ** 7]\nrepr(x * 10)", "OUT_OF_MEMORY"),
    program("format", "pads for ever", "f'{1:>2000000000}'", "OUT_OF_MEMORY", "EXCEPTION"),
    program(
        "decompression bomb",
        "unpacks a bomb",
        "import zlib\nb = zlib.compress(bytes(10 ** 7))\nzlib.decompress(zlib.decompress(zlib.compress(b)) * 1)\nx = [zlib.decompress(b) for _ in range(1000)]",
        "OUT_OF_MEMORY",
    ),
    program(
        "xml bomb",
        "expands entities",
        "import xml.etree.ElementTree as E\ne = '<!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\">' + ''.join(f'<!ENTITY {chr(98 + i)} \"' + f'&{chr(97 + i)};' * 10 + '\">' for i in range(9)) + ']><l>&j;</l>'\nE.fromstring(e)",
        "EXCEPTION",
        "OUT_OF_MEMORY",
        "DEADLINE",
    ),
    program(
        "swallow MemoryError",
        "goes on after it",
        "x = []\nwhile True:\n    try: x.append(bytearray(10 ** 6))\n    except MemoryError: pass",
        "DEADLINE",
    ),
    program(
        "hoard tracebacks",
        "keeps frames alive",
        "x = []\ndef f(n):\n    y = bytearray(10 ** 5)\n    try: 1 / 0\n    except Exception as e: x.append(e)\nwhile True: f(1)",
        "OUT_OF_MEMORY",
        "DEADLINE",
    ),
    program(
        "class factory",
        "makes types without end",
        "x = []\nwhile True: x.append(type('C', (), {}))",
        "OUT_OF_MEMORY",
        "DEADLINE",
    ),
    program(
        "giant arguments",
        "fills the host with open calls",
        "import host_calls\nx = []\nwhile True: x.append(host_calls.host_submit('ask', 'x' * 10 ** 6))",
        "EXCEPTION",
        "OUT_OF_MEMORY",
        "DEADLINE",
        calls_host=True,
    ),
    program(
        "many open calls",
        "opens calls without end",
        "import host_calls\nwhile True: host_calls.host_submit('ask')",
        "EXCEPTION",
        "OUT_OF_MEMORY",
        "DEADLINE",
        calls_host=True,
    ),
]
