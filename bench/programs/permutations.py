"""The most flips that a permutation of eight needs: lists and slices."""


def run():
    most = 0
    order, counts, level = list(range(8)), [0] * 8, 0
    while level < 8:
        if counts[level] < level:
            other = counts[level] if level & 1 else 0
            order[other], order[level] = order[level], order[other]
            cards, flips = order[:], 0
            while (first := cards[0]) != 0:
                cards[: first + 1] = cards[first::-1]
                flips += 1
            most = max(most, flips)
            counts[level] += 1
            level = 0
        else:
            counts[level] = 0
            level += 1
    return most
