"""The `rlm` command."""

import os

# gRPC's core writes its own log to stderr, as when a connection closes. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from rlm_server.cli.app import main

__all__ = ["main"]
