"""`python -m rlm_server.demo_model`: serves the demo model until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal

from rlm_common.logs import configure_logging

from rlm_server.demo_model.server import running_demo_model
from rlm_server.demo_model.settings import MODEL_ID, Behaviour, DemoModelSettings

_log = logging.getLogger("rlm_server.demo_model")


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="python -m rlm_server.demo_model", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument("--behaviour", default="", help="as `latency_seconds=1&fault=429&fault_every=3`")
    parser.add_argument("--api-key", default=None, help="the key that callers must send; default: any")
    options = parser.parse_args()
    try:
        behaviour = Behaviour().overridden(options.behaviour) if options.behaviour else Behaviour()
    except ValueError as error:
        parser.error(f"--behaviour: {error}")
    configure_logging()
    asyncio.run(serve(options.listen, DemoModelSettings(behaviour, options.api_key)))


async def serve(listen: str, settings: DemoModelSettings) -> None:
    """Serves the demo model until SIGINT or SIGTERM.

    Args:
        listen: `HOST:PORT`; port 0 takes a free one.
        settings: how it behaves.

    Raises:
        ValueError: the address is not `HOST:PORT`.
        OSError: the address cannot be listened on.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{listen!r} is not HOST:PORT")
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running_demo_model(settings, host=host.strip("[]"), port=int(port)) as running:
        _log.info("demo model, a stand-in and no language model: base_url=%s model=%s", running.base_url, MODEL_ID)
        with contextlib.suppress(asyncio.CancelledError):
            await stopped.wait()


if __name__ == "__main__":
    main()
