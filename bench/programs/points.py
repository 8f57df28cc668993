"""Objects with attributes and methods."""

import math


class Point:
    def __init__(self, number):
        self.x = math.sin(number)
        self.y = math.cos(number) * 3
        self.z = self.x * self.x / 2

    def normalize(self):
        norm = math.sqrt(self.x * self.x + self.y * self.y + self.z * self.z)
        self.x /= norm
        self.y /= norm
        self.z /= norm

    def maximize(self, other):
        self.x = max(self.x, other.x)
        self.y = max(self.y, other.y)
        self.z = max(self.z, other.z)
        return self


def run():
    points = [Point(number) for number in range(40_000)]
    for point in points:
        point.normalize()
    best = points[0]
    for point in points[1:]:
        best = best.maximize(point)
    return round(best.y, 6)
