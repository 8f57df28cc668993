"""A scheduler of tasks that hand packets to each other: polymorphic calls."""


class Task:
    def __init__(self, name, following):
        self.name, self.following, self.packets, self.done = name, following, [], 0

    def step(self):
        if not self.packets:
            return False
        packet = self.packets.pop()
        self.done += 1
        packet = self.work(packet)
        if packet > 0 and self.following is not None:
            self.following.packets.append(packet)
        return True

    def work(self, packet):
        raise NotImplementedError


class Halver(Task):
    def work(self, packet):
        return packet // 2


class Adder(Task):
    def work(self, packet):
        return packet + 1 if packet % 3 else packet - 2


class Sink(Task):
    def work(self, packet):
        return packet - 5


def run():
    sink = Sink("sink", None)
    chain = Halver("halver", Adder("adder", sink))
    sink.following = chain
    chain.packets = list(range(1, 12_000))
    tasks = [chain, chain.following, sink]
    while any([task.step() for task in tasks]):
        pass
    return sum(task.done for task in tasks)
