"""A completion as a tree on a terminal: the turn that runs is live, those before it are printed above."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.text import Text
from rich.tree import Tree

from rlm_server.cli import words

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rlm_api.rlm.v1 import event_pb2
    from rlm_client import Completion, Event

_ROOT = "0"
_CODE_LINES = 14
_OUTPUT_LINES = 10
_SUBCALLS_SHOWN = 12
_LIVE_LINES = 4


@dataclass
class _Block:
    code: str
    output: str = ""
    result: str = ""


@dataclass
class _Turn:
    title: str
    blocks: list[_Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    subcalls: list[_Node] = field(default_factory=list)


@dataclass
class _Node:
    title: str
    result: str = ""
    turns: list[_Turn] = field(default_factory=list)


class TreeRenderer:
    """Draws the tree of calls with rich."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._nodes: dict[str, _Node] = {_ROOT: _Node("")}
        self._live = Live(console=self._console, refresh_per_second=8, transient=True, get_renderable=self._current)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the live part; the last turn stays on the screen."""
        self._live.stop()
        self._print_turn()

    def event(self, event: Event) -> None:
        """Takes an event into the tree."""
        kind = event.WhichOneof("kind")
        if kind == "started":
            self._print_start(event.started)
        elif kind == "iteration_started" and event.node_id == _ROOT:
            self._print_turn()
        self._take(event, kind)

    def completion(self, completion: Completion) -> None:
        """Draws the answer and what it took."""
        title = "partial answer" if completion.partial else "answer"
        if completion.answer:
            self._console.print(Panel(Text(completion.answer), title=title, border_style="green"))
        self._console.print(words.usage(completion), style="dim")

    def _take(self, event: Event, kind: str | None) -> None:
        node = self._nodes.setdefault(event.node_id, _Node(event.node_id))
        match kind:
            case "iteration_started":
                turn = event.iteration_started
                node.turns.append(_Turn(f"{words.turn(turn)} of at most {turn.max_iterations}, {turn.model}"))
            case "code_started":
                _turn(node).blocks.append(_Block(event.code_started.code))
            case "output":
                _block(node).output += event.output.text
            case "code_finished":
                _block(node).result = words.outcome(event.code_finished)
            case "subcall_started":
                started = event.subcall_started
                node.title = f"{event.node_id} {words.subcall(started)}"
                parent = self._nodes.setdefault(started.parent_node_id, _Node(started.parent_node_id))
                _turn(parent).subcalls.append(node)
            case "subcall_finished":
                call = event.subcall_finished
                head = f"{words.reason(call.finish_reason)} in {words.seconds(call.wall_time)}"
                node.result = f"{head}: {words.one_line(call.error or call.answer_preview)}"
            case "tool_call":
                _turn(node).notes.append(f"tool: {words.tool_call(event.tool_call)}")
            case "tool_call_finished":
                _turn(node).notes.append(f"tool: {words.tool_result(event.tool_call_finished)}")
            case "warning":
                _turn(node).notes.append(f"warning: {event.warning.message}")
            case "file_content" if event.file_content.last:
                _turn(node).notes.append(f"file: {words.file_content(event.file_content)}")
            case "answered_directly":
                node.turns.append(_Turn(words.answered_directly(event.answered_directly)))
            case "compacted":
                _turn(node).notes.append(words.compacted(event.compacted))
            case "sandbox_restored":
                _turn(node).notes.append(f"sandbox restored: {words.restored(event.sandbox_restored)}")
            case "parked":
                _turn(node).notes.append(f"parked: {event.parked.reason}")
            case "resumed":
                _turn(node).notes.append(f"resumed: {event.resumed.cause}")
            case _:
                pass  # shown at the end, or not at all

    def _print_start(self, started: event_pb2.CompletionStarted) -> None:
        for part in started.contexts:
            self._console.print(f"{part.name}: {part.type}, {part.size_bytes:,} bytes", style="dim", markup=False)
        self._console.print(Text(started.query, style="bold"))

    def _print_turn(self) -> None:
        """Prints the root's turn that has just ended for good, and forgets what is below it."""
        root = self._nodes[_ROOT]
        if root.turns:
            self._console.print(_draw_turn(root.turns[-1], lines=None))
        self._nodes = {_ROOT: _Node("")}

    def _current(self) -> RenderableType:
        root = self._nodes[_ROOT]
        spinner = Spinner("dots", text="working")
        return Group(_draw_turn(root.turns[-1], lines=_LIVE_LINES), spinner) if root.turns else spinner


def _turn(node: _Node) -> _Turn:
    if not node.turns:
        node.turns.append(_Turn(""))
    return node.turns[-1]


def _block(node: _Node) -> _Block:
    blocks = _turn(node).blocks
    if not blocks:
        blocks.append(_Block(""))
    return blocks[-1]


def _draw_turn(turn: _Turn, *, lines: int | None) -> Tree:
    tree = Tree(escape(turn.title), guide_style="dim")
    for block in turn.blocks:
        code = _cut(block.code, lines or _CODE_LINES)
        tree.add(Syntax(code, "python", background_color="default", word_wrap=True))
        if block.output:
            tree.add(Text(_cut(block.output.rstrip("\n"), lines or _OUTPUT_LINES), style="cyan"))
        if block.result:
            tree.add(Text(block.result, style="green" if block.result.startswith("OK") else "red"))
    hidden = len(turn.subcalls) - _SUBCALLS_SHOWN
    # Of many the last are shown, as those are the ones that still change.
    if hidden > 0:
        tree.add(f"{hidden} sub-calls before these", style="dim")
    for call in turn.subcalls[-_SUBCALLS_SHOWN:]:
        _draw_node(tree, call, lines=lines)
    for note in turn.notes:
        tree.add(Text(note, style="yellow"))
    return tree


def _draw_node(parent: Tree, node: _Node, *, lines: int | None) -> None:
    branch = parent.add(Text(node.title))
    for turn in node.turns:
        branch.add(_draw_turn(turn, lines=lines or _LIVE_LINES))
    if node.result:
        branch.add(Text(node.result, style="dim"))


def _cut(text: str, limit: int) -> str:
    lines = text.split("\n")
    if len(lines) <= limit:
        return text
    return "\n".join([*lines[:limit], f"# ... {len(lines) - limit} more lines"])
