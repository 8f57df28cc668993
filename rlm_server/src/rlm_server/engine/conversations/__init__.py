"""Completions that follow each other: the REPL that they share, and what each is told of those before it."""
