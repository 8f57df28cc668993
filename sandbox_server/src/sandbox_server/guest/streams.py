"""sys.stdin, sys.stdout and sys.stderr of the sandbox."""

import codecs
import io
import time

import wit_world

_BLOCK_CHARS = 8192
"""Output is handed over when this much has gathered."""

_EAGER_FLUSHES = 256
"""So many times a cell the end of a line is handed over at once; after that only when some time has passed."""

_FLUSH_INTERVAL_NS = 20_000_000


class OutputLimitExceeded(BaseException):
    """Ends a cell that wrote more than it may. Not an Exception, so that ordinary handlers don't swallow it."""


class Meter:
    """Counts what a cell writes to both streams together against its limit."""

    def __init__(self):
        self.start_cell(0)

    def start_cell(self, limit_bytes):
        """Forgets the cell before."""
        self.dropped_bytes = 0
        self.exceeded = False
        self.flushes = 0
        self.last_flush_ns = 0
        self._room = limit_bytes

    def send(self, output, text):
        """Hands text to the host, as far as the limit allows."""
        if self.exceeded:
            self.dropped_bytes += len(text.encode("utf-8", "backslashreplace"))
            return
        # A huge text crosses in parts, so that the host never holds much more than the limit.
        for start in range(0, len(text), 1 << 18):
            part = text[start : start + (1 << 18)]
            data = part.encode("utf-8", "backslashreplace")
            if len(data) > self._room:
                kept = data[: self._room].decode("utf-8", "ignore")
                if kept:
                    wit_world.emit(output, kept)
                self.exceeded = True
                self.dropped_bytes += len(text[start:].encode("utf-8", "backslashreplace")) - len(kept.encode())
                return
            self._room = wit_world.emit(output, data.decode("utf-8"))


class OutputStream(io.TextIOBase):
    """A text stream whose text goes to the host.

    Lines are handed over as they end, so that a reader sees progress; a cell that writes very many has them gathered.
    """

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None

    def __init__(self, output, name, meter):
        self._output = output
        self._meter = meter
        self._parts = []
        self._chars = 0
        self.name = name
        self.mode = "w"
        self.buffer = _BinaryView(self)

    def writable(self):
        return True

    def isatty(self):
        return False

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not text:
            return 0
        self._parts.append(text)
        self._chars += len(text)
        if self._chars >= _BLOCK_CHARS or ("\n" in text and self._line_is_due()):
            self.flush()
        return len(text)

    def _line_is_due(self):
        meter = self._meter
        if meter.flushes < _EAGER_FLUSHES:
            meter.flushes += 1
            return True
        now = time.monotonic_ns()
        if now - meter.last_flush_ns < _FLUSH_INTERVAL_NS:
            return False
        meter.last_flush_ns = now
        return True

    def flush(self):
        self.hand_over()
        if self._meter.exceeded:
            raise OutputLimitExceeded("the cell wrote more than its output limit")

    def hand_over(self):
        """Flushes without raising, for the end of a cell."""
        if self._parts:
            text = "".join(self._parts)
            self._parts.clear()
            self._chars = 0
            self._meter.send(self._output, text)


class _BinaryView(io.RawIOBase):
    """`sys.stdout.buffer`: takes bytes, shows what is no UTF-8 as backslash escapes."""

    def __init__(self, stream):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def writable(self):
        return True

    def write(self, data):
        self._stream.write(self._decoder.decode(bytes(data)))
        return len(data)

    def flush(self):
        self._stream.flush()


class NoInput(io.TextIOBase):
    """`sys.stdin`: there is nobody to answer."""

    encoding = "utf-8"
    name = "<stdin>"

    def readable(self):
        return True

    def isatty(self):
        return False

    def _refuse(self, *_):
        raise EOFError("there is no standard input in a sandbox: pass data in as an input variable")

    read = readline = readlines = __next__ = _refuse
