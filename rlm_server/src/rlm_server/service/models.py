"""Which models requests and code may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_server.engine.run import UnknownModelError

if TYPE_CHECKING:
    from rlm_server.settings import Settings

_MAX_NAME_CHARS = 200


class ModelNames:
    """The models of a server.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._allowed = None if settings.allowed_models is None else frozenset(settings.allowed_models)
        defaults = (settings.default_model, settings.sub_model)
        self.names = tuple(dict.fromkeys((*defaults, *(settings.allowed_models or ()), *settings.stand_in_models)))
        """The models that are known by name, the defaults first."""

    def resolve(self, name: str) -> str:
        """Returns the name of a model that was asked for.

        Raises:
            UnknownModelError: the server does not serve it; the message says which it does.
        """
        if self._allowed is not None and name not in self._allowed:
            raise UnknownModelError(f"there is no model {name[:_MAX_NAME_CHARS]!r}; there are: {', '.join(self.names)}")
        if len(name) > _MAX_NAME_CHARS or not name.isprintable() or not name.strip():
            raise UnknownModelError(f"a model's name has 1 to {_MAX_NAME_CHARS} printable characters")
        return name

    def window_tokens(self, name: str) -> int:
        """Returns the size of a model's window, as far as it is known."""
        return self._settings.context_window_tokens

    def listing(self) -> pb.ListModelsResponse:
        """Returns the answer to `ListModels`."""
        return pb.ListModelsResponse(
            models=[pb.Model(name=name, stand_in=name in self._settings.stand_in_models) for name in self.names],
            default_model=self._settings.default_model,
            default_sub_model=self._settings.sub_model,
            any_model_allowed=self._allowed is None,
        )
