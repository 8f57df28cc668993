"""Character sets by their names."""

from __future__ import annotations

import codecs
import contextlib


def text_decoder(charset: str) -> codecs.IncrementalDecoder:
    """Returns a decoder of a character set.

    Args:
        charset: an IANA name that Python knows, as `iso-8859-1`.

    Raises:
        LookupError: there is none by that name; the message is for people.
    """
    try:
        codec = codecs.lookup(charset)
        # Python also has codecs that are no character sets, as `rot13` and `zlib`, which `bytes.decode` refuses.
        with contextlib.suppress(UnicodeDecodeError):
            b"a".decode(codec.name)
    except (LookupError, ValueError):
        raise LookupError(f"{charset[:50]!r} is no character set that is known; use an IANA name") from None
    if codec.incrementaldecoder is None:
        raise LookupError(f"{charset[:50]!r} cannot be decoded in parts; convert the text to UTF-8 first")
    return codec.incrementaldecoder()
