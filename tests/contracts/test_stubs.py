"""The stubs are those of the contracts, and every RPC of the contracts is served."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rlm_api
from rlm_api.rlm.v1 import completion_service_pb2, completion_service_pb2_grpc
from rlm_api.sandbox.v1 import execute_service_pb2, execute_service_pb2_grpc
from rlm_server.service.completion_service import CompletionService
from sandbox_server.service.execute_service import ExecuteService

ROOT = Path(__file__).resolve().parents[2]
STUBS = Path(rlm_api.__file__).parent


def test_the_stubs_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate_stubs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_stubs_import_nothing_from_a_top_level_package_that_is_not_ours() -> None:
    bare = re.compile(r"^\s*(from|import) (rlm|sandbox)[. ]", re.MULTILINE)
    files = sorted(STUBS.rglob("*.py*"))
    assert files
    assert [str(path) for path in files if path.suffix in {".py", ".pyi"} and bare.search(path.read_text())] == []


def test_the_stubs_need_no_path_tricks(tmp_path: Path) -> None:
    code = "import rlm_api.rlm.v1.completion_service_pb2_grpc, rlm_api.sandbox.v1.execute_service_pb2_grpc"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("descriptor", "base", "servicer"),
    [
        (
            completion_service_pb2.DESCRIPTOR.services_by_name["CompletionService"],
            completion_service_pb2_grpc.CompletionServiceServicer,
            CompletionService,
        ),
        (
            execute_service_pb2.DESCRIPTOR.services_by_name["ExecuteService"],
            execute_service_pb2_grpc.ExecuteServiceServicer,
            ExecuteService,
        ),
    ],
    ids=["rlm.v1", "sandbox.v1"],
)
def test_every_rpc_has_an_answer_of_our_own(descriptor: Any, base: type, servicer: type) -> None:
    generated = [
        method.name for method in descriptor.methods if getattr(servicer, method.name) is getattr(base, method.name)
    ]
    assert generated == []
    assert all(getattr(servicer, method.name).__doc__ for method in descriptor.methods)


def test_a_change_that_breaks_clients_is_caught(tmp_path: Path) -> None:
    buf = Path(sys.executable).with_name("buf")
    for directory, edit in (("landed", False), ("changed", True)):
        target = tmp_path / directory
        (target / "proto" / "sandbox" / "v1").mkdir(parents=True)
        (target / "buf.yaml").write_text((ROOT / "buf.yaml").read_text())
        for path in (ROOT / "proto" / "sandbox" / "v1").iterdir():
            text = path.read_text()
            if edit:
                text = text.replace("  int64 fuel = 1;", "  int64 fuel = 11;")
            (target / "proto" / "sandbox" / "v1" / path.name).write_text(text)
    command = [str(buf), "breaking", "--against", str(tmp_path / "landed")]
    done = subprocess.run(command, cwd=tmp_path / "changed", capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'Previously present field "1" with name "fuel" on message "Limits" was deleted' in done.stdout
