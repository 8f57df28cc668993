"""One completion that the command line asks for, from the request to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from rlm_client import AsyncClient, CallCancelledError, RlmError

from rlm_server.cli import exit_codes
from rlm_server.cli.completions import save, tell
from rlm_server.cli.endpoint import STAND_IN_NOTICE
from rlm_server.cli.stack import running_stack
from rlm_server.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from rlm_client import PreparedContext, SkippedFile

    from rlm_server.cli.endpoint import Endpoint
    from rlm_server.cli.render import Renderer

_SHOWN_SKIPPED_FILES = 5


@dataclass(frozen=True)
class Call:
    """A completion to be made.

    Args:
        query: the question.
        context: what it is about.
        skipped_files: files of directories that are not in it.
        server: a running server; None means that both servers are started for this.
        endpoint: the models of those, where `server` is None.
        options: further arguments of `AsyncClient.stream`.
        detach: the completion's id is written, and the completion goes on by itself.
        output: a file for the answer.
        save_files: a directory for files that the root's code writes.
    """

    query: str
    context: PreparedContext
    skipped_files: Sequence[SkippedFile]
    server: str | None
    endpoint: Endpoint | None
    options: Mapping[str, Any]
    detach: bool
    output: Path | None
    save_files: Path | None

    async def run(self, renderer: Renderer) -> int:
        """Makes the call, shows it, and returns the exit code."""
        task = asyncio.create_task(self._complete(renderer))
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            # A second Ctrl-C must work even if the clean-up hangs.
            loop.remove_signal_handler(signal.SIGINT)
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, cancel)
        loop.add_signal_handler(signal.SIGTERM, cancel)
        try:
            return await task
        except (asyncio.CancelledError, CallCancelledError):
            _tell("cancelled")
            return exit_codes.CANCELLED
        except RlmError as error:
            _tell(exit_codes.message_of(error, self.server or "the server that this command started"))
            return exit_codes.of_error(error)
        except SettingsError as error:
            _tell(str(error))
            return exit_codes.BAD_INPUT
        except BrokenPipeError:
            # Who read stdout has gone, as `head` does; what is still buffered must not fail once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exit_codes.FAILED
        except OSError as error:
            _tell(str(error))
            return exit_codes.FAILED

    async def _complete(self, renderer: Renderer) -> int:
        if self.endpoint is not None and self.endpoint.is_demo:
            _tell(STAND_IN_NOTICE)
        tell_skipped(self.skipped_files)
        async with self._target() as target, AsyncClient(target) as client:
            stream = await client.stream(self.context, self.query, on_resume=tell, **self.options)
            async with stream:
                if self.detach:
                    await anext(stream)
                    typer.echo(stream.completion_id)
                    return exit_codes.ANSWERED
                with renderer:
                    async for event in stream:
                        renderer.event(event)
                completion = await stream.result()
            if completion.answer_json:
                completion = dataclasses.replace(completion, answer=completion.answer_json)
            renderer.completion(completion)
        if self.output is not None:
            await asyncio.to_thread(self.output.write_text, completion.answer, encoding="utf-8")
        if self.save_files is not None:
            await asyncio.to_thread(save, completion.files, self.save_files)
        if completion.conversation_id:
            _tell(f"conversation {completion.conversation_id}")
        if completion.error:
            _tell(f"{completion.finish_reason}: {completion.error}")
        return exit_codes.of_completion(completion)

    @contextlib.asynccontextmanager
    async def _target(self) -> AsyncIterator[str]:
        if self.server is not None or self.endpoint is None:
            yield self.server or ""
            return
        async with running_stack(self.endpoint) as target:
            yield target


def _tell(text: str) -> None:
    sys.stdout.flush()
    typer.echo(f"rlm: {text}", err=True)


def tell_skipped(skipped_files: Sequence[SkippedFile]) -> None:
    """Says on stderr which files of directories are left out."""
    if not skipped_files:
        return
    _tell(f"{len(skipped_files)} files or directories are left out:")
    for skipped in skipped_files[:_SHOWN_SKIPPED_FILES]:
        typer.echo(f"  {skipped.path}: {skipped.reason}", err=True)
    if len(skipped_files) > _SHOWN_SKIPPED_FILES:
        typer.echo(f"  and {len(skipped_files) - _SHOWN_SKIPPED_FILES} more", err=True)
