"""A tree of tuples, built and walked by recursion, and exceptions on the way."""


def build(depth):
    return (build(depth - 1), build(depth - 1)) if depth else (None, None)


def count(node):
    left, right = node
    return 1 if left is None else 1 + count(left) + count(right)


def run():
    failures = 0
    for number in range(20_000):
        try:
            if number % 2:
                raise ValueError(str(number))
        except ValueError:
            failures += 1
    return sum(count(build(12)) for _ in range(8)) + failures
