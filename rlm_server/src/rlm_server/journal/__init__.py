"""The journal: what happened in completions, recorded as it happens, so that no crash of any part loses it.

`database` and `schema` hold the tables, `writer` commits to them in groups (`commits`), the modules `*_rows` have the
statements by subject, `access` is the way to them all. `store` is what the service asks; what is too large for a row
goes through `payloads` to `blobs`. `recorder` and its wrappers of the engine's ports record one completion, and answer
from the record when it is run again: `models`, `tools`, and `executor` with `sessions`, whose sandboxes outlive their
servers (`lasting_sandbox`). `turns` makes the REPL of a conversation again of what its completions recorded.
"""
