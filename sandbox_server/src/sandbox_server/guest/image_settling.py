"""Makes the image's memory cheap to share, as the last thing that is done while it is built.

Sandboxes share the image's pages until they write to them, and each page that a sandbox writes to costs it a copy. So
nothing should make it write where the image's own objects are.
"""

import gc
import sys

_LARGEST_SMALL_BYTES = 512
_LARGEST_PLUG_BYTES = 64 << 10
_SMALL_PLUGS_IN_A_ROW = 64
_LARGE_PLUGS_IN_A_ROW = 4

_plugs = []


def settle():
    """Has the collector leave the image alone, and fills the holes in it, so that new objects get their own pages."""
    gc.collect()
    _fill_holes()
    gc.freeze()


def _fill_holes():
    # Objects of up to 512 bytes come from pools by size, the others from malloc. A row of addresses that rise without
    # a gap is taken to mean that the holes of a size are full.
    for size in range(48, _LARGEST_SMALL_BYTES, 16):
        _plug(size, _SMALL_PLUGS_IN_A_ROW)
    size = _LARGEST_PLUG_BYTES
    while size > _LARGEST_SMALL_BYTES:
        _plug(size, _LARGE_PLUGS_IN_A_ROW)
        size = size * 7 // 8


def _plug(size, wanted):
    overhead = sys.getsizeof(b"")
    last, in_a_row = 0, 0
    while in_a_row < wanted:
        plug = b"." * (size - overhead)
        _plugs.append(plug)
        step = id(plug) - last
        in_a_row = in_a_row + 1 if 0 < step <= size + 32 else 0
        last = id(plug)
