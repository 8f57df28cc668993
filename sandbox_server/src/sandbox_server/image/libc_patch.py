"""Has the guest's C library say that a disk is full when it is.

WASI 0.2 writes files through streams, and a stream that fails hands over an opaque error. The C library in the image
makes EIO of it, whatever it was, in two places of its `write`. What fails here is never anything but the quota of the
scratch directory, so those two constants become ENOSPC, which is what Python programs look for.

Source: WebAssembly/wasi-libc, `libc-bottom-half/sources/file_utils.c`; WebAssembly binary format for the opcodes.
"""

from __future__ import annotations

import re

_EIO, _ENOSPC = 29, 51
_I32_CONST = 0x41
_PLACES = 2

# i32.const EIO; local.set e; end; global.get errno; local.get e; i32.store; i32.const -1
_SETS_ERRNO = re.compile(
    bytes([_I32_CONST, _EIO]) + rb"(?P<rest>\x21(?P<local>.)\x0b\x23.{5}\x20(?P=local)\x36\x02\x00\x41\x7f)", re.DOTALL
)


class UnknownLibraryError(Exception):
    """The C library is another than the one whose code is known here."""


def report_full_disk(component: bytes) -> bytes:
    """Returns the component with the constants exchanged; its length is the same.

    Raises:
        UnknownLibraryError: they are not where they are known to be.
    """
    patched, count = _SETS_ERRNO.subn(lambda match: bytes([_I32_CONST, _ENOSPC]) + match["rest"], component)
    if count != _PLACES:
        raise UnknownLibraryError(f"its C library sets errno to EIO in {count} places of this kind, not in {_PLACES}")
    return patched
