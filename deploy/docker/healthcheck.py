"""Asks a gRPC server whether it is healthy: `healthcheck.py ADDRESS [SERVICE]`. Exits with 0 if it says SERVING."""

# ruff: noqa: INP001 - a script, no module of a package
from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_SECONDS = 4


def main(address: str, service: str = "") -> int:
    """Returns the exit code."""
    with grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=_TIMEOUT_SECONDS
            )
        except grpc.RpcError as error:
            sys.stderr.write(f"{address}: {error.code().name}\n")
            return 1
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    sys.stderr.write(f"{address}: {name}\n")
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
