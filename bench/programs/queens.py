"""All solutions of nine queens, by generators."""


def solutions(size, row, columns, left, right):
    if row == size:
        yield ()
        return
    for column in range(size):
        if column not in columns and row + column not in left and row - column not in right:
            for rest in solutions(size, row + 1, columns | {column}, left | {row + column}, right | {row - column}):
                yield (column, *rest)


def run():
    return sum(1 for _ in solutions(9, 0, frozenset(), frozenset(), frozenset()))
