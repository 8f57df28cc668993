"""Files that the root's code has written, given to the client before the completion ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import event_pb2

from rlm_server.engine.ports.sessions import SandboxError
from rlm_server.engine.run import ROOT_NODE_ID
from rlm_server.engine.text import clean, count

if TYPE_CHECKING:
    from rlm_server.engine.events import EventStream
    from rlm_server.engine.ports.sessions import FileContent, Session
    from rlm_server.engine.repl.cells import WrittenFiles
    from rlm_server.engine.run import WantedFiles

_PART_BYTES = 256 * 1024
_MAX_PATH_CHARS = 1000
_SECONDS = 120.0


async def return_files(events: EventStream, wanted: WantedFiles, session: Session, written: WrittenFiles) -> None:
    """Tells what is in the files that are wanted. What cannot be returned is told as well; nothing is raised for it.

    Args:
        events: gets them.
        wanted: which, and how much.
        session: the root's, between blocks.
        written: what its blocks have written.
    """
    matching = [(path, size) for path, size in written.sizes.items() if wanted.matches(path)]
    done = 0
    problem = ""
    try:
        async with asyncio.timeout(_SECONDS):
            left = wanted.max_bytes
            for path, size in matching:
                left -= await _return_file(events, wanted, session, path, size, left)
                done += 1
    except SandboxError as error:
        problem = f"the sandbox broke: {error}"
    except TimeoutError:
        problem = f"reading them took longer than {_SECONDS:g} s"
    await warn_not_returned(events, len(matching) - done, problem)
    await warn_not_returned(
        events, written.unlisted_count, "one block wrote more files than are listed; write fewer, or one archive"
    )


async def warn_not_returned(events: EventStream, number: int, problem: str) -> None:
    """Warns of files that are not returned, if there are any."""
    if number:
        message = f"{count(number, 'file')} {'is' if number == 1 else 'are'} not returned: {problem}"
        await events.warn(ROOT_NODE_ID, event_pb2.WARNING_CODE_FILES_NOT_RETURNED, message)


async def _return_file(  # noqa: PLR0917 - one place calls it
    events: EventStream, wanted: WantedFiles, session: Session, path: str, size: int, left: int
) -> int:
    """Tells what is in a file, or why that is not told; returns how many bytes were."""
    shown = clean(path)
    if shown != path or len(path) > _MAX_PATH_CHARS:
        problem = f"its path is no valid text, or has more than {_MAX_PATH_CHARS:,} characters"
    elif size > left:
        problem = f"it has {size:,} bytes, and {left:,} are left of `return_files.max_bytes`, {wanted.max_bytes:,}"
    else:
        content = await session.read_file(path, left)
        problem = content.problem
        if not problem:
            await _tell(events, path, content)
            return len(content.data)
    await events.emit(
        ROOT_NODE_ID, event_pb2.FileContent(path=shown[:_MAX_PATH_CHARS], size_bytes=size, last=True, error=problem)
    )
    return 0


async def _tell(events: EventStream, path: str, content: FileContent) -> None:
    size = len(content.data)
    for offset in range(0, max(size, 1), _PART_BYTES):
        part = content.data[offset : offset + _PART_BYTES]
        is_last = offset + _PART_BYTES >= size
        await events.emit(
            ROOT_NODE_ID,
            event_pb2.FileContent(path=path, size_bytes=size, offset=offset, data=part, last=is_last),
        )
