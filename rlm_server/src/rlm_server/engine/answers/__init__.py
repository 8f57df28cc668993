"""Answers: what one is, whether it is taken, what it must match, and the best there is when a limit ends a node."""
