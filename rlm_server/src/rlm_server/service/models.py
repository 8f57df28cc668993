"""Which models requests and code may name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_api.rlm.v1 import completion_service_pb2 as pb

from rlm_server.engine.run import UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlm_server.engine.ports.models import ModelInfo, Price
    from rlm_server.settings import Settings

_MAX_NAME_CHARS = 200


class ModelNames:
    """The models of a server.

    Args:
        settings: the server's.
        info: returns what is known of a model.
    """

    def __init__(self, settings: Settings, info: Callable[[str], ModelInfo]) -> None:
        self._settings = settings
        self._info = info
        profiles = [name for name in settings.models if settings.is_allowed(name)]
        defaults = (settings.default_model, settings.sub_model, *settings.default_child_models)
        self.names = tuple(
            dict.fromkeys((*defaults, *profiles, *(settings.allowed_models or ()), *settings.stand_in_models))
        )
        """The models that are known by name, the defaults first."""

    def resolve(self, name: str) -> str:
        """Returns the name of a model that was asked for.

        Raises:
            UnknownModelError: the server does not serve it; the message says which it does.
        """
        if len(name) > _MAX_NAME_CHARS or not name.isprintable() or not name.strip():
            raise UnknownModelError(f"a model's name has 1 to {_MAX_NAME_CHARS} printable characters")
        if not self._settings.is_allowed(name):
            raise UnknownModelError(f"there is no model {name!r}; there are: {', '.join(self.names)}")
        return name

    def window_tokens(self, name: str) -> int:
        """Returns the size of a model's window, as far as it is known."""
        return self._info(name).window_tokens or self._settings.context_window_tokens

    def known_as(self, name: str) -> tuple[str, str]:
        """Returns what the endpoint calls a model, by which its family is told, and its name here."""
        profile = self._settings.models.get(name)
        return (profile and profile.model) or name, name

    def listing(self) -> pb.ListModelsResponse:
        """Returns the answer to `ListModels`."""
        return pb.ListModelsResponse(
            models=[self._describe(name) for name in self.names],
            default_model=self._settings.default_model,
            default_sub_model=self._settings.sub_model,
            any_model_allowed=self._settings.any_model_allowed,
        )

    def _describe(self, name: str) -> pb.Model:
        info = self._info(name)
        return pb.Model(
            name=name,
            stand_in=name in self._settings.stand_in_models,
            context_window_tokens=info.window_tokens or 0,
            price=_price(info.price) if info.price else None,
            max_output_tokens=info.max_output_tokens or 0,
            fallbacks=info.fallbacks,
            images_refused=not info.takes_images,
        )


def _price(price: Price) -> pb.ModelPrice:
    return pb.ModelPrice(input=price.input, output=price.output, cached_input=price.cached_input)
