"""Stands in for modules of the standard library that WASI lacks, where a package imports them but can do without.

Importing them works then; using them says what is missing.
"""

import sys
import types

_ABSENT = {
    "_bz2": {"BZ2Compressor": None, "BZ2Decompressor": None},
    "_lzma": {
        **dict.fromkeys(["LZMACompressor", "LZMADecompressor", "is_check_supported"]),
        **dict.fromkeys(["_encode_filter_properties", "_decode_filter_properties"]),
        # Defaults of arguments in lzma.py; the numbers are those of liblzma.
        "FORMAT_AUTO": 0,
        "FORMAT_XZ": 1,
        "LZMAError": type("LZMAError", (Exception,), {"__module__": "lzma"}),
    },
}
"""For each module its names; None is a function or class that cannot be used."""


def install():
    """Makes the modules importable."""
    for name, members in _ABSENT.items():
        module = types.ModuleType(name, "Not in the sandbox.")
        for member, value in members.items():
            setattr(module, member, _refusal(name) if value is None else value)
        sys.modules.setdefault(name, module)


def _refusal(name):
    def refuse(*args, **kwargs):
        raise NotImplementedError(f"{name.removeprefix('_')} is not available in the sandbox")

    return refuse
