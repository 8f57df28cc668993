"""The greatest eigenvalue of a matrix that is computed over and over: calls of small functions."""


def entry(row, column):
    return 1.0 / ((row + column) * (row + column + 1) // 2 + row + 1)


def times(vector):
    size = len(vector)
    return [sum(entry(row, column) * vector[column] for column in range(size)) for row in range(size)]


def run():
    vector = [1.0] * 100
    for _ in range(40):
        vector = times(vector)
    return round(vector[0] / vector[1], 6)
