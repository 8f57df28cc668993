"""What a server's process writes to stderr, in processes of their own since logging is one for all of a process."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

MODEL_CALL = """
import http.server, json, threading
import openai

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        message = {"role": "assistant", "content": "yes"}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                           "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="k", max_retries=0)
assert client.chat.completions.create(model="m", messages=[]).choices[0].message.content == "yes"
"""


def stderr_of(source: str, level: str) -> str:
    setup = f"import logging\nfrom rlm_common.logs import configure_logging\nconfigure_logging({level!r})\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", setup + textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


@pytest.mark.parametrize("level", ["INFO", "info"])
def test_a_record_is_one_line_with_time_level_and_origin(level: str) -> None:
    told = stderr_of("log = logging.getLogger('a.b')\nlog.info('it %s', 'works')\nlog.debug('hidden')", level)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO a\.b: it works\n", told)


def test_requests_to_models_are_not_told_unless_debug_is_asked_for() -> None:
    assert stderr_of(MODEL_CALL, "INFO") == ""
    assert "HTTP Request: POST http://127.0.0.1" in stderr_of(MODEL_CALL, "DEBUG")


@pytest.mark.parametrize("name", ["httpcore", "httpcore2", "httpx", "httpx2", "openai"])
def test_warnings_of_the_http_client_are_told(name: str) -> None:
    told = stderr_of(f"log = logging.getLogger('{name}.part')\nlog.warning('late')\nlog.info('chatter')", "INFO")
    assert "late" in told
    assert "chatter" not in told
