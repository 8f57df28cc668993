"""Reads the server's settings from a file, the environment and the command line, and tells where each comes from."""

from rlm_server.configuration.configuration import Configuration, load

__all__ = ["Configuration", "load"]
