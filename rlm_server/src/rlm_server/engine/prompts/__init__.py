"""The texts that models are given. They are files beside this one, a directory for each set."""

from rlm_server.engine.prompts.library import (
    BUILT_IN,
    DEFAULT_PROMPTS,
    PromptLibrary,
    UnknownPromptsError,
    default_prompts,
    load_library,
)
from rlm_server.engine.prompts.model_notes import ModelNote
from rlm_server.engine.prompts.prompt_set import (
    PROMPT_NAMES,
    Placeholders,
    PromptError,
    PromptSet,
    check_text,
    fill,
    placeholders_of,
)

__all__ = [
    "BUILT_IN",
    "DEFAULT_PROMPTS",
    "PROMPT_NAMES",
    "ModelNote",
    "Placeholders",
    "PromptError",
    "PromptLibrary",
    "PromptSet",
    "UnknownPromptsError",
    "check_text",
    "default_prompts",
    "fill",
    "load_library",
    "placeholders_of",
]
