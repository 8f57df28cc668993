"""Ordinary programs that use files, and what each prints; lines may be parted anywhere."""

PROGRAMS = {
    "open": (
        (
            "with open('a.txt', 'w') as f: print('one\\ntwo', file=f)\n"
            "with open('a.txt', 'a') as f: f.write('thrée')\n"
            "print(open('a.txt', encoding='utf-8').read().split())"
        ),
        "['one', 'two', 'thrée']",
    ),
    "update in place": (
        (
            "open('a', 'wb').write(b'0123456789')\n"
            "with open('a', 'r+b') as f:\n"
            "    f.seek(4); f.write(b'XY'); print(f.tell(), f.read(), f.seek(-2, 2), f.read())"
        ),
        "6 b'6789' 8 b'89'",
    ),
    "read, write and read again without buffers": (
        (
            "open('a', 'wb').write(b'0123456789')\n"
            "f = open('a', 'r+b', buffering=0)\n"
            "print(f.read(2), f.write(b'XY'), f.read(2), f.tell())"
        ),
        "b'01' 2 b'45' 6",
    ),
    "truncate": ("open('a', 'w').write('abcdef')\nimport os\nos.truncate('a', 2)\nprint(open('a').read())", "ab"),
    "pathlib": (
        (
            "from pathlib import Path\n"
            "Path('d/e').mkdir(parents=True)\nPath('d/e/f.txt').write_text('x')\n"
            "print(sorted(map(str, Path().rglob('*'))), Path('d/e/f.txt').stat().st_size, Path.cwd())"
        ),
        "['d', 'd/e', 'd/e/f.txt'] 1 /",
    ),
    "os": (
        (
            "import os\nos.mkdir('d')\nopen('d/a', 'w').close()\nos.rename('d/a', 'd/b')\n"
            "print(os.listdir(), os.listdir('d'), list(os.walk('.')), os.path.isdir('d'), os.path.exists('d/a'))\n"
            "os.remove('d/b')\nos.rmdir('d')\nprint(os.listdir())"
        ),
        "['d'] ['b'] [('.', ['d'], []), ('./d', [], ['b'])] True False []",
    ),
    "chdir": (
        "import os\nos.mkdir('d')\nos.chdir('d')\nopen('x', 'w').close()\nprint(os.getcwd(), os.listdir())",
        "/d ['x']",
    ),
    "times": ("import os\nopen('a', 'w').close()\nos.utime('a', (1, 2))\nprint(os.path.getmtime('a'))", "2.0"),
    "tempfile": (
        (
            "import os, tempfile\n"
            "with tempfile.TemporaryDirectory() as d, open(d + '/x', 'w') as f: print(os.listdir(d), os.listdir())\n"
            "with tempfile.NamedTemporaryFile() as f, tempfile.TemporaryFile() as g:\n"
            "    g.write(b'x'); g.seek(0); print(os.path.exists(f.name), g.read())\n"
            "print(os.listdir(tempfile.gettempdir()))"
        ),
        "['x'] [] True b'x' []",
    ),
    "shutil": (
        (
            "import os, shutil\nos.mkdir('d')\nopen('d/a', 'w').write('x')\n"
            "shutil.copy('d/a', 'b'); shutil.copy2('b', 'c'); shutil.copytree('d', 'e'); shutil.move('c', 'e/c')\n"
            "print(sorted(os.listdir()), sorted(os.listdir('e')))\nshutil.rmtree('e')\nprint(sorted(os.listdir()))"
        ),
        "['b', 'd', 'e'] ['a', 'c'] ['b', 'd']",
    ),
    "csv and json": (
        (
            "import csv, json\n"
            "with open('a.csv', 'w', newline='') as f: csv.writer(f).writerows([[1, 'ä'], [2, 'b']])\n"
            "json.dump(list(csv.reader(open('a.csv'))), open('a.json', 'w'))\nprint(open('a.json').read())"
        ),
        '[["1", "\\u00e4"], ["2", "b"]]',
    ),
    "sqlite3": (
        (
            "import sqlite3\nwith sqlite3.connect('a.db') as db:\n"
            "    db.execute('create table t(a)')\n"
            "    db.executemany('insert into t values(?)', [(i,) for i in range(1000)])\n"
            "db.close()\nprint(sqlite3.connect('a.db').execute('select count(*), sum(a) from t').fetchall())"
        ),
        "[(1000, 499500)]",
    ),
    "zipfile": (
        (
            "import os, zipfile\nopen('a', 'w').write('x' * 1000)\n"
            "with zipfile.ZipFile('a.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.write('a'); z.writestr('d/b', 'y')\n"
            "z = zipfile.ZipFile('a.zip')\nz.extractall('out')\nprint(z.testzip(), sorted(os.listdir('out')))"
        ),
        "None ['a', 'd']",
    ),
    "tarfile and gzip": (
        (
            "import gzip, tarfile\nopen('a', 'w').write('x')\nwith tarfile.open('a.tgz', 'w:gz') as t: t.add('a')\n"
            "with gzip.open('a.gz', 'wt') as f: f.write('z')\n"
            "print(tarfile.open('a.tgz').getnames(), gzip.open('a.gz', 'rt').read())"
        ),
        "['a'] z",
    ),
    "shelve": (
        "import shelve\nwith shelve.open('s') as s: s['k'] = [1]\nwith shelve.open('s') as s: print(s['k'])",
        "[1]",
    ),
    "logging": (
        "import logging\nlogging.basicConfig(filename='log')\nlogging.error('x')\nprint(open('log').read())",
        "ERROR:root:x",
    ),
    "devnull": (
        (
            "import contextlib, os\n"
            "with open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print('x' * 10**6)\n"
            "print(open(os.devnull).read() == '', os.listdir())"
        ),
        "True []",
    ),
    "import": (
        "open('helper.py', 'w').write('x = 42')\nimport helper, os\nprint(helper.x, os.listdir())",
        "42 ['helper.py']",
    ),
    "a large file": (
        (
            "import hashlib\ndata = bytes(range(256)) * 20_000\nopen('a', 'wb').write(data)\n"
            "print(open('a', 'rb').read() == data, len(data))"
        ),
        "True 5120000",
    ),
}
