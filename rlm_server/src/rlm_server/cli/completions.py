"""`rlm completions`: what a server keeps of completions, running or done."""

# ruff: noqa: TC001 - typer reads annotations at run time, and calls commands by keyword

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rlm_client import Client, CompletionParkedError, CompletionState, RlmError

from rlm_server.cli import exit_codes
from rlm_server.cli.options import SaveFilesOption, ServerOption
from rlm_server.cli.render import make_renderer
from rlm_server.settings import DEFAULT_LISTEN_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rlm_client import ReturnedFile, StoredCompletion

completions_app = typer.Typer(help="Completions that a server keeps, running or done.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The completion's id.")]


@completions_app.command("list")
def list_completions(
    server: ServerOption = None,
    state: Annotated[
        list[CompletionState] | None, typer.Option("--state", help="Only those in this state; may be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only those with it; may be repeated.")
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many at most.")] = 20,
) -> None:
    """Lists completions, the latest first."""
    labels = read_labels(label or [])
    with _client(server) as client:
        for index, completion in enumerate(
            client.completions(states=state or (), labels=labels, page_size=max(1, min(number, 1000)))
        ):
            if index >= number:
                break
            typer.echo(_line(completion))


@completions_app.command("get")
def get_completion(completion_id: IdArgument, server: ServerOption = None) -> None:
    """Describes a completion, with the tree of its calls and its answer."""
    with _client(server) as client:
        completion = client.get(completion_id)
    typer.echo(_line(completion))
    total = completion.usage.total
    typer.echo(
        f"{total.call_count} model calls, {total.input_tokens} tokens in, {total.output_tokens} out, "
        f"{completion.last_sequence} events"
    )
    for node in completion.nodes[1:]:
        how = "waits" if completion.state is CompletionState.PARKED else "runs"
        if node.HasField("finished"):
            how = node.finished.error or node.finished.answer_preview
        typer.echo(f"{node.node_id} {node.started.function} {node.started.model}: {how}")
    if completion.conversation_id:
        typer.echo(f"in conversation {completion.conversation_id}")
    if completion.parked_reason:
        typer.echo(f"parked: {completion.parked_reason}")
    if completion.result is not None:
        if completion.result.error:
            typer.echo(f"{completion.result.finish_reason}: {completion.result.error}")
        if completion.result.answer or not completion.result.error:
            typer.echo(completion.result.answer)


@completions_app.command("watch")
def watch_completion(
    completion_id: IdArgument,
    server: ServerOption = None,
    after: Annotated[int, typer.Option("--after", metavar="NUMBER", help="Leave out the events up to this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Write the events as JSON lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write the answer only.")] = False,
    save_files: SaveFilesOption = None,
) -> None:
    """Follows a completion, running or done, as `rlm complete` does. Ctrl-C leaves it alone."""
    renderer = make_renderer(as_json=as_json, quiet=quiet)
    try:
        with _client(server) as client, client.watch(completion_id, after_sequence=after, on_resume=tell) as stream:
            with renderer:
                for event in stream:
                    renderer.event(event)
            completion = stream.result()
    except KeyboardInterrupt:
        raise typer.Exit(exit_codes.CANCELLED) from None
    renderer.completion(completion)
    if completion.error:
        tell(f"{completion.finish_reason}: {completion.error}")
    if save_files is not None:
        try:
            save(completion.files, save_files)
        except OSError as error:
            exit_codes.fail(str(error), exit_codes.FAILED)
    raise typer.Exit(exit_codes.of_completion(completion))


@completions_app.command("cancel")
def cancel_completion(completion_id: IdArgument, server: ServerOption = None) -> None:
    """Cancels a completion; does nothing if it has ended."""
    with _client(server) as client:
        typer.echo(_line(client.cancel(completion_id)))


@completions_app.command("resume")
def resume_completion(completion_id: IdArgument, server: ServerOption = None) -> None:
    """Lets a parked completion go on."""
    with _client(server) as client:
        typer.echo(_line(client.resume(completion_id)))


@completions_app.command("delete")
def delete_completion(completion_id: IdArgument, server: ServerOption = None) -> None:
    """Forgets a completion that has ended."""
    with _client(server) as client:
        client.delete(completion_id)


def tell(message: str) -> None:
    """Says on stderr what becomes of a stream."""
    typer.echo(f"rlm: {message}", err=True)


def save(files: Sequence[ReturnedFile], directory: Path) -> None:
    """Saves files below a directory, and says so on stderr; also of those that were not returned.

    Raises:
        OSError: one cannot be written.
    """
    for file in files:
        try:
            tell(f"saved {file.save(directory)}, {len(file.data):,} bytes")
        except ValueError as error:
            tell(str(error))


def read_labels(options: list[str]) -> dict[str, str]:
    """Returns what `--label` options say; exits if one is none."""
    labels = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            exit_codes.fail(f"--label {option}: give KEY=VALUE", exit_codes.BAD_INPUT)
        labels[key] = value
    return labels


@contextlib.contextmanager
def _client(server: str | None) -> Iterator[Client]:
    target = server or DEFAULT_LISTEN_ADDRESS
    try:
        with Client(target) as client:
            yield client
    except CompletionParkedError as error:
        where = "" if server is None else f" --server {server}"
        remedy = f"Continue with: rlm completions resume{where} {error.completion_id}"
        exit_codes.fail(f"{error}\n{remedy}", exit_codes.FAILED)
    except RlmError as error:
        exit_codes.fail(exit_codes.message_of(error, target), exit_codes.of_error(error))


def _line(completion: StoredCompletion) -> str:
    labels = "".join(f" {key}={value}" for key, value in sorted(completion.labels.items()))
    question = " ".join(completion.query.split())
    cut = question if len(question) <= 60 else f"{question[:57]}..."
    time = completion.create_time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{completion.completion_id} {time} {completion.state}{labels} {cut}"
