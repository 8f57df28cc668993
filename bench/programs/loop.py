"""A loop in a function."""


def run():
    total = 0
    for number in range(1_500_000):
        total += number
    return total
