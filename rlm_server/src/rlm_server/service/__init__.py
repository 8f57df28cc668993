"""`rlm.v1.CompletionService`: requests in, events out."""
