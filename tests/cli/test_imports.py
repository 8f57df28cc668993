"""What the commands import: the parts of the server cost a second, which a client's command must not."""

from __future__ import annotations

import subprocess
import sys

SERVER_PARTS = ("aiohttp", "openai", "psycopg", "sqlalchemy", "rlm_server.journal", "rlm_server.server")


def test_the_commands_are_there_before_any_part_of_the_server_is_imported() -> None:
    program = f"import sys, rlm_server.cli; print([name for name in {SERVER_PARTS} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"
