"""Sub-calls: what code in a node's REPL asks of models and of child RLMs."""
