"""What the nodes of one completion share."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlm_server.engine.images import DEFAULT_MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rlm_api.rlm.v1 import event_pb2

    from rlm_server.engine.answers.answer_schema import AnswerSchema
    from rlm_server.engine.budgets.budget import Budget
    from rlm_server.engine.conversations.turns import Past
    from rlm_server.engine.events import EventStream
    from rlm_server.engine.limits import CompletionLimits
    from rlm_server.engine.messages.compaction import CompactionSpec
    from rlm_server.engine.ports.clock import Clock
    from rlm_server.engine.ports.executors import Executor
    from rlm_server.engine.ports.models import ModelClient, Sampling
    from rlm_server.engine.prompts import PromptSet
    from rlm_server.engine.repl.client_tools import ToolCaller
    from rlm_server.engine.repl.context_parts import ContextPart
    from rlm_server.engine.repl.tools import Tool

ROOT_NODE_ID = "0"
"""The root's node id."""


class UnknownModelError(Exception):
    """A model that the server does not serve; the message says which it does."""


@dataclass(frozen=True)
class WantedFiles:
    """Files of the root's that the client asks for.

    Args:
        patterns: match their paths, as those of `fnmatch`; none at all means every file.
        max_bytes: how large they may be together.
    """

    patterns: Sequence[str]
    max_bytes: int

    def matches(self, path: str) -> bool:
        """Whether a file is wanted."""
        return not self.patterns or any(fnmatch.fnmatchcase(path, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class CompletionSpec:
    """A query over a context, checked and with every default resolved.

    Args:
        completion_id: names the completion.
        query: the question.
        contexts: at least one, unless the completion goes on with a conversation.
        model: the root's.
        sub_model: that of sub-calls which name none.
        child_models: those of `rlm_query` children which name none, by depth from 1, the last for all deeper ones; none
            at all means the sub-calls' model.
        limits: bounds of the whole tree.
        sampling: is passed to the models.
        sub_sampling: is passed to those of sub-calls and children; None means the same.
        resolve_model: returns the name of the model that code asked for, or raises `UnknownModelError`.
        prompts: the texts that models are given.
        model_note: returns what a model is told besides, by its name; may be empty.
        compaction: when messages are summed up.
        model_names: the models that code may name, as far as they are known by name.
        max_direct_answer_tokens: how large a context may be, by estimate, to be answered by one plain call; None means
            that the request does not allow it.
        max_image_bytes: how large a picture may be.
        cache_subcalls: identical sub-calls are made once.
        tools: functions that the request adds to the REPL.
        seed: makes the completion reproducible; see `reproducible.py`.
        answer_at_limit: when a limit ends a node, its model is asked for its best answer.
        look_required: an answer is refused that comes before any look at the context.
        answer_schema: what the root's answer must match; None means any text.
        conversation_id: the conversation that it belongs to, or empty.
        wanted_files: what the client is given of the files that the root's code writes; None means nothing.
    """

    completion_id: str
    query: str
    contexts: Sequence[ContextPart]
    model: str
    sub_model: str
    child_models: Sequence[str]
    limits: CompletionLimits
    sampling: Sampling
    resolve_model: Callable[[str], str]
    prompts: PromptSet
    model_note: Callable[[str], str]
    compaction: CompactionSpec
    model_names: Sequence[str] = ()
    sub_sampling: Sampling | None = None
    cache_subcalls: bool = False
    tools: Sequence[Tool] = ()
    seed: int | None = None
    look_required: bool = False
    answer_at_limit: bool = True
    answer_schema: AnswerSchema | None = None
    conversation_id: str = ""
    max_direct_answer_tokens: int | None = None
    max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES
    wanted_files: WantedFiles | None = None

    def answer_schema_of(self, node_id: str) -> AnswerSchema | None:
        """Returns what a node's answer must match. Children answer with text."""
        return self.answer_schema if node_id == ROOT_NODE_ID else None

    def sampling_of(self, node_id: str) -> Sampling:
        """Returns what is passed to a node's model."""
        return self.sampling if node_id == ROOT_NODE_ID or self.sub_sampling is None else self.sub_sampling

    def child_model(self, depth: int) -> str:
        """Returns the model of an `rlm_query` child at a depth, where the code names none."""
        return self.child_models[min(depth, len(self.child_models)) - 1] if self.child_models else self.sub_model


@dataclass(frozen=True)
class Run:
    """What the nodes of one completion share."""

    spec: CompletionSpec
    budget: Budget
    events: EventStream
    models: ModelClient
    executor: Executor
    clock: Clock
    prompts: PromptSet
    client_tools: ToolCaller

    def tools_of(self, node: Node) -> list[Tool]:
        """Returns the tools that code of a node can call."""
        return [tool for tool in self.spec.tools if tool.scope.has(node.depth)]


@dataclass
class Node:
    """A place in the tree: the root has depth 0, its n-th sub-call the id `0.n`."""

    node_id: str
    depth: int
    child_count: int = 0
    tool_call_count: int = 0

    def next_child_id(self) -> str:
        """Returns the id of the next sub-call."""
        self.child_count += 1
        return f"{self.node_id}.{self.child_count}"

    def next_tool_call_id(self) -> str:
        """Returns the id of the next call of a tool that the client serves."""
        self.tool_call_count += 1
        return f"{self.node_id}-{self.tool_call_count}"


@dataclass(frozen=True)
class NodeTask:
    """What a node that runs a loop is asked, and with what.

    Args:
        query: the question.
        contexts: the parts of its context.
        model: the one that it asks.
        past: what there was before, if it goes on with a conversation.
        packages: what its sandbox has beside the standard library, each as `name==version`.
    """

    query: str
    contexts: Sequence[ContextPart]
    model: str
    past: Past | None = None
    packages: Sequence[str] = ()


@dataclass(frozen=True)
class NodeResult:
    """How a node ended.

    Args:
        reason: why.
        answer: the answer, or the best partial one; may be empty.
        partial: it is not one that the model declared final.
        error: what went wrong, for people.
        iterations: the turns it took.
        answer_json: the answer as JSON, if it matches the schema that was asked for.
    """

    reason: event_pb2.FinishReason.ValueType
    answer: str
    partial: bool = False
    error: str = ""
    iterations: int = 0
    answer_json: str = ""
