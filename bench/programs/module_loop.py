"""A loop at the top level, where variables are globals."""

SOURCE = """
total = 0
for number in range(700_000):
    total += number
"""


def run():
    names = {}
    exec(compile(SOURCE, "<loop>", "exec"), names)
    return names["total"]
