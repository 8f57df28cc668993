"""Making and taking apart texts."""


def run():
    lines = []
    for number in range(40_000):
        lines.append(f"{number:06d};{number * 3 % 97};name-{number % 13}".upper())
    total = 0
    for line in "\n".join(lines).splitlines():
        first, second, name = line.split(";")
        if name.startswith("NAME-1"):
            total += int(first) + int(second)
    return total
