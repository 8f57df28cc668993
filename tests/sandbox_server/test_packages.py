"""Images with packages: built from wheels, served by name."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio
from rlm_api.sandbox.v1 import execute_service_pb2 as pb
from sandbox_server.image import package_set
from sandbox_server.image.cache import default_cache_directory, load_or_build_image

from tests.sandbox_server.conftest import Stack, running_server
from tests.sandbox_server.driver import session
from tests.sandbox_server.wheels import make_wheel
from tests.support.statuses import assert_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)  # building an image takes a minute on a busy machine, and may take two

GREETING = {
    # networkx, for one, imports bz2, which WASI does not have.
    "greeting/__init__.py": "import bz2, lzma\nimport helper\nfrom greeting.words import hello\n",
    "greeting/words.py": "def hello(name): return f'hello {name}'\n",
    "greeting/far/away.py": "HERE = __name__\n",
    "greeting/far/__init__.py": "",
}
HELPER = {
    # As PyYAML does: compiled parts that are not needed.
    "helper/__init__.py": "try:\n    from helper._fast import SPEED\nexcept ImportError:\n    SPEED = 'slow'\n",
    "helper/_fast.cpython-314-x86_64-linux-gnu.so": "machine code",
    "bin/helper": "a script",
}
BROKEN = {"broken/__init__.py": "import helper._fast\n"}


def build(cache: Path, wheels: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `rlm-sandbox image` with nothing but the wheels of a directory to be had."""
    environment = os.environ | {
        "RLM_SANDBOX_CACHE": str(cache),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = [sys.executable, "-m", "sandbox_server", "image", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of wheels."""
    directory = tmp_path_factory.mktemp("wheels")
    make_wheel(directory, "greeting", "1.0", GREETING, requires="helper>=2")
    make_wheel(directory, "helper", "2.1", HELPER, tag="cp314-cp314-manylinux2014_x86_64")
    make_wheel(directory, "broken", "1.0", BROKEN, requires="helper")
    return directory


@pytest.fixture(scope="module")
def cache(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the standard image and one with packages, `polite`."""
    directory = tmp_path_factory.mktemp("cache")
    standard = load_or_build_image(default_cache_directory(), print)
    for path in (standard.path, standard.path.parent / f"{standard.digest}.wasm"):
        for suffix in ("", ".sha256"):
            directory.joinpath(path.name + suffix).symlink_to(f"{path}{suffix}")
    done = build(directory, wheels, "build", "--with", "Greeting", "--name", "polite")
    assert done.returncode == 0, done.stderr
    assert "1 compiled files were left out" in done.stderr
    assert "with greeting==1.0, helper==2.1" in done.stderr
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(cache: Path) -> AsyncIterator[Stack]:
    async with running_server(cache_directory=cache) as stack:
        yield stack


async def test_a_run_that_names_the_image_has_its_packages_with_all_their_modules(server: Stack) -> None:
    code = (
        "import greeting, helper, greeting.far.away\nprint(greeting.hello('you'), helper.SPEED, greeting.far.away.HERE)"
    )
    response = await server.stub.Run(pb.RunRequest(code=code, image="polite"))
    assert (response.stdout, response.stderr) == ("hello you slow greeting.far.away\n", "")


async def test_a_session_keeps_to_its_image_when_it_is_restored(server: Stack) -> None:
    async with session(server.stub, image="polite") as s:
        await s.run("import greeting\nx = greeting.hello('again')")
        assert (await s.run("import os\nos.abort()")).state == "RESTORED"
        assert (await s.run("print(x)")).stdout == "hello again\n"


async def test_other_images_do_not_have_them(server: Stack) -> None:
    for image in ("", "standard"):
        response = await server.stub.Run(pb.RunRequest(code="import greeting", image=image))
        assert response.result.error.type == "ModuleNotFoundError"


@pytest.mark.parametrize("name", ["bz2", "lzma"])
async def test_what_stands_in_for_a_missing_module_says_so_when_it_is_used(server: Stack, name: str) -> None:
    response = await server.stub.Run(pb.RunRequest(code=f"import {name}\n{name}.compress(b'')", image="polite"))
    assert response.result.error.type == "NotImplementedError"
    assert response.result.error.message == f"{name} is not available in the sandbox"


@pytest.mark.parametrize("image", ["no-such", "../polite", "x" * 5000])
async def test_an_image_that_is_not_there_is_not_found_and_the_others_are_named(server: Stack, image: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.stub.Run(pb.RunRequest(code="1", image=image))
    assert_status(
        caught.value,
        grpc.StatusCode.NOT_FOUND,
        "IMAGE_NOT_FOUND",
        domain="sandbox.v1",
        available="standard, polite",
        image=image[:100],
    )


async def test_the_server_lists_its_images_with_their_packages(server: Stack) -> None:
    info = await server.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert {one.name: list(one.packages) for one in info.images} == {
        "standard": [],
        "polite": ["greeting==1.0", "helper==2.1"],
    }
    assert len({one.digest for one in info.images}) == 2


def test_the_command_runs_code_in_an_image_and_lists_them(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("import greeting\nprint(greeting.hello('me'))")
    command = [sys.executable, "-m", "sandbox_server", "run", str(tmp_path / "code.py"), "--image"]
    environment = os.environ | {"RLM_SANDBOX_CACHE": str(cache)}
    done = subprocess.run([*command, "polite"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "hello me\n")
    done = subprocess.run([*command, "rude"], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, "there are: standard, polite" in done.stderr) == (3, True)
    listed = json.loads(build(cache, tmp_path, "list", "--json").stdout)
    assert [(one["name"], one["built"]) for one in listed] == [("standard", True), ("polite", True)]


def test_a_package_that_does_not_import_fails_the_build_and_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    done = build(tmp_path, wheels, "build", "--with", "broken", "--name", "bad")
    assert done.returncode == 3
    assert "broken does not work in the sandbox: import broken: ModuleNotFoundError" in done.stderr
    assert package_set.find_all(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--with", "nowhere-to-be-had"], "pip cannot get them"),
        (["--with", "greeting>=7"], "pip cannot get them"),
        (["--with", "--upgrade"], "is no requirement"),
        (["--with", "greeting @ file:///etc"], "is no requirement"),
        (["--with", "greeting", "--name", "standard"], "choose another name"),
        (["--with", "greeting", "--name", "../up"], "is no name for an image"),
        (["--with", "greeting", "--name", "x" * 51], "is no name for an image"),
    ],
)
def test_what_cannot_be_built_is_told_at_once(tmp_path: Path, wheels: Path, arguments: list[str], told: str) -> None:
    done = build(tmp_path, wheels, "build", *arguments)
    assert (done.returncode, told in done.stderr) == (3, True), done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_that_is_removed_is_not_there_any_more(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache / "packages", tmp_path / "packages")
    for status in (0, 3):
        assert build(tmp_path, tmp_path, "remove", "polite").returncode == status
    assert [one["name"] for one in json.loads(build(tmp_path, tmp_path, "list", "--json").stdout)] == ["standard"]


TRIED = {
    "beautifulsoup4": "import bs4\nbs4.BeautifulSoup('<p>a<b>c</b>', 'html.parser').b.text == 'c'",
    "sympy": "import sympy\nx = sympy.symbols('x')\nsympy.integrate(x, x) == x ** 2 / 2",
    "networkx": "import networkx\nnetworkx.shortest_path(networkx.path_graph(4), 0, 3) == [0, 1, 2, 3]",
    "python-dateutil": "import dateutil.parser\ndateutil.parser.parse('3 May 2024').month == 5",
    "pyyaml": "import yaml\nyaml.safe_load('a: [1, 2]') == {'a': [1, 2]}",
    "tabulate": "import tabulate\n'1' in tabulate.tabulate([[1]])",
    "markdown-it-py": "import markdown_it\nmarkdown_it.MarkdownIt().render('*a*') == '<p><em>a</em></p>\\n'",
}
"""The packages that docs/sandbox.md lists, and what shows that each works."""


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_packages_that_the_documents_list_work(tmp_path: Path) -> None:
    environment = os.environ | {"RLM_SANDBOX_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "sandbox_server", "image", "build", "--with", ",".join(TRIED), "--name", "tried"]
    building = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await building.wait() == 0
    async with running_server(cache_directory=tmp_path) as stack:
        for name, code in TRIED.items():
            response = await stack.stub.Run(pb.RunRequest(code=code, image="tried"))
            assert (response.stdout, response.result.error.traceback) == ("True\n", ""), name
