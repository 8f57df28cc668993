"""Sorting 60,000 texts by a key that Python code makes."""

WORDS = [f"{number * 7919 % 60_013:05d} text" for number in range(60_000)]


def run():
    return sorted(WORDS, key=lambda word: word[::-1])[0]
