"""Reading 2 MB of JSON."""

import json

RECORD = {"id": 12345, "name": "a name", "tags": ["one", "two", None, True], "value": 3.25, "nested": {"a": [1, 2, 3]}}
TEXT = json.dumps([RECORD] * 15_000)


def run():
    return len(json.loads(TEXT))
