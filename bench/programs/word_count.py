"""Counting words in a dict."""

TEXT = " ".join(f"w{number * 31 % 5_000}" for number in range(150_000))


def run():
    counts = {}
    for word in TEXT.split():
        counts[word] = counts.get(word, 0) + 1
    return max(counts.values())
