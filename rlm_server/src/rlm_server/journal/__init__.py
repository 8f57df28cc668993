"""The journal: what happened in completions, recorded as it happens, so that no crash of any part loses it.

`database` and `schema` hold the tables, `writer` commits to them in groups, `store` is what the service asks, `blobs`
keeps what is too large for a row. `recorder` and its wrappers of the engine's ports record one completion, and answer
from the record when it is run again.
"""
