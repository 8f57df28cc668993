"""Puts the parts together: model endpoint, executor, context store and service behind one gRPC server."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2_grpc as pb_grpc
from rlm_common.own_directory import own_directory
from rlm_common.server import GrpcServer, ServiceBinding

from rlm_server.contexts import ContextStore
from rlm_server.engine.clock import SystemClock
from rlm_server.engine.prompts import PromptError, UnknownPromptsError, load_library
from rlm_server.executors.child_process import SandboxProcess, SandboxStartError
from rlm_server.executors.local import LocalExecutor
from rlm_server.executors.sandbox import SandboxExecutor
from rlm_server.journal.opening import open_journal
from rlm_server.models.registry import ModelRegistry
from rlm_server.service.completion_service import CompletionService
from rlm_server.service.models import ModelNames
from rlm_server.settings import LOCAL_SANDBOX, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlm_common.stop_signals import StopSignals

    from rlm_server.engine.ports.executors import Executor
    from rlm_server.engine.prompts import PromptLibrary
    from rlm_server.settings import Settings

__all__ = ["RlmServer", "SandboxStartError", "create_server"]

_log = logging.getLogger(__name__)

ERROR_DOMAIN = "rlm.v1"
"""Domain of the `google.rpc.ErrorInfo` of this server's errors."""

_SERVICE_NAME = "rlm.v1.CompletionService"


class RlmServer:
    """A server of `rlm.v1.CompletionService`; `create_server` makes it.

    Args:
        settings: how it is set up.
        service: what it serves.
        grpc_server: serves.
        sandbox_process: the sandbox server that is a child process, if there is one.
        resources: what is freed in the end, after the gRPC server has stopped.
    """

    def __init__(
        self,
        settings: Settings,
        service: CompletionService,
        grpc_server: GrpcServer,
        sandbox_process: SandboxProcess | None,
        resources: contextlib.AsyncExitStack,
    ) -> None:
        self._settings = settings
        self._service = service
        self._grpc_server = grpc_server
        self._sandbox_process = sandbox_process
        self._resources = resources

    async def start(self) -> None:
        """Starts the sandbox server, if it is to be a child process, and listens.

        Raises:
            OSError: an address cannot be listened on.
            SandboxStartError: the sandbox server did not start; the message has its last lines. It is an OSError, too.
        """
        if self._sandbox_process is not None:
            await self._sandbox_process.start()
        await self._grpc_server.start()
        self._service.start()

    @property
    def addresses(self) -> Sequence[str]:
        """The addresses that are listened on, with real ports, once the server has started."""
        return self._grpc_server.addresses

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Drains and frees everything. May be called on a server that did not start, and more than once.

        Args:
            grace_seconds: how long running completions may go on. None means the settings' time.
        """
        try:
            await self._grpc_server.stop(self._settings.grace_seconds if grace_seconds is None else grace_seconds)
        finally:
            await self._resources.aclose()

    async def serve_until_signal(self, signals: StopSignals) -> None:
        """Serves until SIGTERM or SIGINT, then drains and frees everything; a second signal ends the grace time.

        Args:
            signals: made before the server was.
        """
        try:
            await self._grpc_server.serve_until_signal(self._settings.grace_seconds, signals)
        finally:
            await self._resources.aclose()


async def create_server(settings: Settings) -> RlmServer:
    """Makes a server that has not started yet.

    Args:
        settings: how it is set up.

    Raises:
        SettingsError: the operator's prompts, or the file with the endpoint's key, cannot be used.
        JournalOpenError: the journal cannot be used. It is an OSError, too.
    """
    clock = SystemClock()
    prompts = _load_prompts(settings)
    resources = contextlib.AsyncExitStack()
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(resources.aclose)
        journal = await open_journal(settings, resources)
        uploads = resources.enter_context(own_directory("rlm-uploads-", settings.data_dir))
        contexts = ContextStore(
            journal,
            capacity_bytes=settings.context_store_bytes,
            max_context_bytes=settings.max_context_bytes,
            directory=uploads,
            max_image_bytes=settings.max_image_bytes,
        )
        await contexts.open()
        models = ModelRegistry(settings)
        resources.push_async_callback(models.close)
        sandbox_process = None
        if settings.sandbox is None:
            sandbox_process = SandboxProcess(settings.sandbox_start_timeout_seconds)
            resources.push_async_callback(sandbox_process.stop)
        service = CompletionService(
            settings,
            model_names=ModelNames(settings, models.client.info),
            models=models.client,
            executor=_make_executor(settings, sandbox_process, resources),
            contexts=contexts,
            prompts=prompts,
            journal=journal,
            clock=clock,
        )
        undo.pop_all()
    binding = ServiceBinding(
        _SERVICE_NAME, lambda server: pb_grpc.add_CompletionServiceServicer_to_server(service, server), service
    )
    grpc_server = GrpcServer(binding, error_domain=ERROR_DOMAIN, listen=settings.listen)
    return RlmServer(settings, service, grpc_server, sandbox_process, resources)


def _load_prompts(settings: Settings) -> PromptLibrary:
    try:
        return load_library(settings.prompts_dir, settings.default_prompts)
    except UnknownPromptsError as error:
        raise SettingsError(f"default_prompts: {error}") from None
    except (PromptError, OSError) as error:
        raise SettingsError(f"prompts_dir: {error}") from None


def _make_executor(
    settings: Settings, sandbox_process: SandboxProcess | None, resources: contextlib.AsyncExitStack
) -> Executor:
    if settings.sandbox == LOCAL_SANDBOX:
        _log.warning(
            "sandbox=local: the code that models write runs in this process, with its files, keys and network. "
            "Use it for development only."
        )
        return LocalExecutor()
    address = sandbox_process.address if sandbox_process else str(settings.sandbox)
    executor = SandboxExecutor(address, settings.sandbox_image)
    resources.push_async_callback(executor.close)
    return executor
