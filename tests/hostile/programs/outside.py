"""Programs that want out: network, processes, threads, environment, secrets."""

from tests.hostile.programs import program

PROGRAMS = [
    program(
        "sqlite extension",
        "loads a shared library",
        "import sqlite3\nsqlite3.connect(':memory:').load_extension('x')",
        "EXCEPTION",
    ),
    program(
        "shared library",
        "loads a shared library",
        "import importlib.machinery, importlib.util\nl = importlib.machinery.ExtensionFileLoader('x', '/x.so')\nimportlib.util.module_from_spec(importlib.util.spec_from_loader('x', l))",
        "EXCEPTION",
    ),
    program("dup", "copies descriptors", "import os\nos.dup2(0, 5)\nos.read(5, 1)", "EXCEPTION"),
    program("fdopen", "opens stdin for writing", "import os\nos.fdopen(0, 'w').write('x')", "OK", "EXCEPTION"),
    program("chroot", "changes the root", "import os\nos.chroot('/')", "EXCEPTION"),
    program("tcp", "connects", "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "EXCEPTION"),
    program("listen", "listens", "import socket\ns = socket.socket()\ns.bind(('0.0.0.0', 0))", "EXCEPTION"),
    program(
        "udp",
        "sends",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
        "EXCEPTION",
    ),
    program("dns", "resolves", "import socket\nsocket.getaddrinfo('example.com', 80)", "EXCEPTION"),
    program(
        "unix socket",
        "connects to a local one",
        "import socket\nsocket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
        "EXCEPTION",
    ),
    program(
        "urllib",
        "fetches",
        "import urllib.request\nurllib.request.urlopen('http://169.254.169.254/latest/meta-data/')",
        "EXCEPTION",
    ),
    program(
        "http.client",
        "fetches",
        "import http.client\nhttp.client.HTTPConnection('127.0.0.1').request('GET', '/')",
        "EXCEPTION",
    ),
    program("smtp", "mails", "import smtplib\nsmtplib.SMTP('127.0.0.1')", "EXCEPTION"),
    program(
        "asyncio connection",
        "connects",
        "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', 80))",
        "EXCEPTION",
    ),
    program("fork", "forks", "import os\nos.fork()", "EXCEPTION"),
    program("exec", "becomes another program", "import os\nos.execv('/bin/sh', ['sh'])", "EXCEPTION"),
    program("spawn", "starts another program", "import os\nos.posix_spawn('/bin/sh', ['sh'], {})", "EXCEPTION"),
    program("system", "starts a shell", "import os\nprint('code', os.system('id'))", "EXCEPTION"),
    program("popen", "starts a shell", "import os\nos.popen('id').read()", "EXCEPTION"),
    program(
        "subprocess", "starts a shell", "import subprocess\nsubprocess.check_output('id', shell=True)", "EXCEPTION"
    ),
    program(
        "multiprocessing",
        "starts a process",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "EXCEPTION",
    ),
    program("pool", "starts processes", "import multiprocessing\nmultiprocessing.Pool(2)", "EXCEPTION"),
    program("thread", "starts a thread", "import threading\nthreading.Thread(target=print).start()", "EXCEPTION"),
    program("_thread", "starts a thread", "import _thread\n_thread.start_new_thread(print, ())", "EXCEPTION"),
    program(
        "executor",
        "starts threads",
        "import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor().submit(print)",
        "EXCEPTION",
    ),
    program(
        "interpreters",
        "starts another interpreter",
        "import _interpreters\n_interpreters.create()",
        "EXCEPTION",
        "OK",
        "TRAP",
    ),
    program(
        "environment",
        "reads the environment",
        "import os\nprint(dict(os.environ), [os.getenv(n) for n in ('OPENAI_API_KEY', 'PATH', 'HOME')])",
        "OK",
        says="{} [None, None, None]",
    ),
    program("putenv", "changes the environment for others", "import os\nos.environ['X'] = '1'", "OK"),
    program(
        "command line", "reads the command line", "import sys\nprint(sys.argv, getattr(sys, 'orig_argv', []))", "OK"
    ),
    program(
        "secrets in memory",
        "searches the interpreter for keys",
        "import gc\nprint([s for o in gc.get_objects() if isinstance(o, dict) for s in o.values() if isinstance(s, str) and s.startswith(('sk-', 'AKIA'))])",
        "OK",
        says="[]",
    ),
    program(
        "host name",
        "asks where it is",
        "import platform, socket\nprint(platform.node())\nsocket.gethostname()",
        "OK",
        "EXCEPTION",
    ),
    program("user", "asks who it is", "import getpass\ngetpass.getuser()", "EXCEPTION"),
    program(
        "browser", "opens a browser", "import webbrowser\nprint(webbrowser.open('http://127.0.0.1'))", "OK", "EXCEPTION"
    ),
    program("ctypes", "calls C", "import ctypes", "EXCEPTION"),
    program("_ctypes", "calls C", "import _ctypes", "EXCEPTION"),
    program("mmap", "maps memory", "import mmap\nmmap.mmap(-1, 10)", "EXCEPTION"),
]
