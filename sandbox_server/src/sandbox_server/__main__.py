"""`python -m sandbox_server` is `rlm-sandbox`."""

from sandbox_server.cli import main

if __name__ == "__main__":
    main()
