"""The demo model: a fixed program that speaks OpenAI's chat completions API and stands in for a language model.

It serves the demo that needs no key, the tests and the benchmarks. What it replies is a function of the messages alone;
docs/demo-model.md describes its policy. `rlm_server.demo_model.server` runs it; this imports no aiohttp.
"""

from rlm_server.demo_model.settings import DEMO_HEADER, MODEL_ID, MODEL_IDS, Behaviour, DemoModelSettings, Fault

__all__ = [
    "DEMO_HEADER",
    "MODEL_ID",
    "MODEL_IDS",
    "Behaviour",
    "DemoModelSettings",
    "Fault",
]
