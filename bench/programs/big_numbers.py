"""Digits of pi: integers of thousands of digits."""


def run():
    q, r, t, k, n, x, digits = 1, 0, 1, 1, 3, 3, 0
    while digits < 1_000:
        if 4 * q + r - t < n * t:
            digits += 1
            q, r, n = 10 * q, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            q, r, t, k, n, x = q * k, (2 * q + r) * x, t * x, k + 1, (q * (7 * k + 2) + r * x) // (t * x), x + 2
    return n
