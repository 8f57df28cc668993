"""`python -m rlm_server.cli`: the `rlm` command."""

from rlm_server.cli.app import main

main()
