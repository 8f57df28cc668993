"""Sorting 200,000 floats."""

state = 1
FLOATS = []
for _ in range(200_000):
    state = state * 1103515245 + 12345 & 0x7FFFFFFF
    FLOATS.append(state / 7)


def run():
    return sorted(FLOATS)[0]
