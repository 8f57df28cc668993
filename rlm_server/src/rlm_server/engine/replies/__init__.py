"""Reads what models reply: blocks of code, final answers, and what must not be taken for either."""
