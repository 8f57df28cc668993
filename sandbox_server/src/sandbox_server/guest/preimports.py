"""Imports the standard library while the image is built.

A sandbox has none of these files, so a module that is not imported now can never be. What does not import under WASI
(no threads, sockets, processes, shared libraries) is left out; `MISSING` tells what and why.
"""

import importlib
import pkgutil
import sys

import stand_ins

MISSING = {}
"""Module name to the error that importing it raised."""

_EXCLUDED = {
    "antigravity",  # opens a web browser
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pip",
    "test",
    "this",  # prints
    "tkinter",
    "turtle",
    "turtledemo",
    "venv",
}


def import_all():
    """Imports every module of the standard library that can be imported."""
    for name in sorted(sys.stdlib_module_names):
        if name in _EXCLUDED or name == "__main__":
            continue
        module = _import(name)
        for info in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
            _import_tree(info)


def import_packages(modules, required):
    """Imports the packages that the image was asked to hold, with all their submodules.

    Args:
        modules: names of all modules at the top level.
        required: for each package without which the image is not what it was asked to be, its modules.

    Raises:
        ImportError: of a required package no module imports.
    """
    if modules:
        stand_ins.install()
    for name in modules:
        module = _import(name)
        for info in pkgutil.iter_modules(getattr(module, "__path__", ()), name + "."):
            _import_tree(info)
    for package, names in required.items():
        if all(name in MISSING for name in names):
            reasons = "; ".join(f"import {name}: {MISSING[name]}" for name in names)
            raise ImportError(f"{package} does not work in the sandbox: {reasons or 'it has no module'}")


def _import_tree(info):
    last = info.name.rpartition(".")[2]
    if last in ("__main__", "tests", "test", "conftest", "benchmarks") or info.name == "json.tool":
        return
    module = _import(info.name)
    if info.ispkg:
        for child in pkgutil.iter_modules(getattr(module, "__path__", ()), info.name + "."):
            _import_tree(child)


def _import(name):
    try:
        return importlib.import_module(name)
    except BaseException as error:
        MISSING[name] = f"{type(error).__name__}: {error}"
        sys.modules.pop(name, None)
        return None
