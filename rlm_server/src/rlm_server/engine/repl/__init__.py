"""A node's REPL, seen from the engine: what its sandbox is given, how its blocks run, what they can call."""
