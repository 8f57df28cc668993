"""Makes the image's memory cheap to share, as the last thing that is done while it is built.

Sandboxes share the image's pages until they write to them, and each page that a sandbox writes to costs it a copy. So
nothing should make it write where the image's own objects are.
"""

import array
import gc
import sys

_LARGEST_SMALL_BYTES = 512
_LARGEST_PLUG_BYTES = 64 << 10
_SMALL_PLUGS_IN_A_ROW = 256
_LARGE_PLUGS_IN_A_ROW = 4

_MOST_PLUGS = 100_000

_COLLECTED_AFTER = 20_000

_plugs = []


def settle():
    """Has the collector leave the image alone, and fills the holes in it, so that new objects get their own pages."""
    gc.collect()
    _fill_holes()
    gc.freeze()
    # The first automatic collection marks all that can be reached from the modules, objects of the image too, and costs
    # a sandbox megabytes of copied pages. Most cells make fewer objects than this.
    gc.set_threshold(_COLLECTED_AFTER)


def _fill_holes():
    # Every object comes from malloc, which takes the first hole that fits. A row of addresses that rise without a gap
    # is taken to mean that the holes of a size are full, and that what comes next lies where nothing was before.
    overhead = sys.getsizeof(b"")
    size = _LARGEST_PLUG_BYTES
    while size > _LARGEST_SMALL_BYTES:
        _plug(_LARGE_PLUGS_IN_A_ROW, size + 32, lambda size=size: b"." * (size - overhead), id)
        size = size * 7 // 8
    for size in range(_LARGEST_SMALL_BYTES, overhead, -8):
        _plug(_SMALL_PLUGS_IN_A_ROW, size + 32, lambda size=size: b"." * (size - overhead), id)
    _plug(_SMALL_PLUGS_IN_A_ROW, 32, lambda: float(len(_plugs)), id)
    # The smallest, as of the items of a short list; the object that has them lies between them.
    _plug(_SMALL_PLUGS_IN_A_ROW, 256, lambda: array.array("b", b"...."), lambda plug: plug.buffer_info()[0])


def _plug(wanted, greatest_step, make, address):
    """Makes objects until so many of them lie in a row; at most a fixed number, should that never come."""
    last, in_a_row = 0, 0
    for _ in range(_MOST_PLUGS):
        plug = make()
        _plugs.append(plug)
        in_a_row = in_a_row + 1 if 0 < address(plug) - last <= greatest_step else 0
        if in_a_row >= wanted:
            break
        last = address(plug)
