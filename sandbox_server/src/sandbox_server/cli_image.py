"""The commands of `rlm-sandbox image`: builds, lists and removes guest images."""

from __future__ import annotations

import json
import typing
from typing import Annotated

import typer

from sandbox_server.cli_words import fail, say
from sandbox_server.image import package_set
from sandbox_server.image.cache import (
    PYTHON_VERSION,
    CompiledImage,
    ImageBuildError,
    default_cache_directory,
    find_image,
    load_or_build_image,
)
from sandbox_server.model import STANDARD_IMAGE

if typing.TYPE_CHECKING:
    from pathlib import Path

    from sandbox_server.image.package_set import PackageSet

image_app = typer.Typer(no_args_is_help=True, help="The guest images.")


@image_app.command("build")
def build(
    packages: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="Packages that it is to hold, as sympy or 'networkx>=3'; several with commas between, or repeated.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What sessions call the image with packages.")] = "packages",
    force: Annotated[bool, typer.Option(help="Build it even if the cache has it.")] = False,
) -> None:
    """Builds and compiles a guest image, unless the cache has it.

    Without --with it is the standard image. A running server has what was there when it started.
    """
    directory = default_cache_directory()
    requirements = [one.strip() for option in packages or [] for one in option.split(",") if one.strip()]
    try:
        image = (
            _build_with(directory, name, requirements, force=force)
            if requirements
            else load_or_build_image(directory, say, force=force)
        )
    except (ImageBuildError, package_set.PackageError, OSError) as error:
        fail(str(error))
    held = f", with {', '.join(image.packages)}" if image.packages else ""
    say(f"image {image.name} {image.digest[:16]} is in {directory}{held}")


@image_app.command("list")
def list_images(
    output_json: Annotated[bool, typer.Option("--json", help="Print the images as JSON.")] = False,
) -> None:
    """Lists the images that a server started now would have."""
    directory = default_cache_directory()
    sets: list[PackageSet | None] = [None, *package_set.find_all(directory)]
    rows = [
        {
            "name": one.name if one else STANDARD_IMAGE,
            "built": find_image(directory, one) is not None,
            "packages": list(one.packages) if one else [],
        }
        for one in sets
    ]
    if output_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        built = "" if row["built"] else " (is built at the next start)"
        typer.echo(f"{row['name']}{built}: {', '.join(typing.cast('list[str]', row['packages'])) or 'no packages'}")


@image_app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="The image with packages.")]) -> None:
    """Forgets an image with packages. Servers that run go on with it until they end."""
    if not package_set.remove(default_cache_directory(), name):
        fail(f"there is no image {name!r} with packages")
    say(f"image {name} is removed")


def _build_with(directory: Path, name: str, requirements: list[str], *, force: bool) -> CompiledImage:
    packages = package_set.install(directory, name, requirements, PYTHON_VERSION, say)
    if packages.dropped_files:
        say(f"{packages.dropped_files} compiled files were left out, as they cannot run in a sandbox")
    try:
        return load_or_build_image(directory, say, packages, force=force)
    except BaseException:
        package_set.remove(directory, name)  # or each start of a server would try again
        raise
