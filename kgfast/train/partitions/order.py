"""How entities are cut into partitions, and in which order pairs of partitions come into memory together.

The order is BETA (Mohoney et al. 2021, Marius): all but one of the resident blocks stay while every other one passes
through the last place; then those that stayed have met all, and others take their places. A block is several partitions
(as in Waleffe et al. 2023, MariusGNN): were it one, most triples of a set would be about that which has just come, and
its entities would be right answers far more often than negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

from kgfast.errors import ConfigError
from kgfast.run.seeds import generator

Bucket = tuple[int, int]  # the partitions of head and tail
FEWEST_BLOCKS = 4  # that are resident, where there are as many partitions


@dataclass(frozen=True)
class Cut:
    """Entities in order of their ids, `rows` a partition; the last one may have fewer."""

    entities: int
    rows: int

    @classmethod
    def of(cls, entities: int, partitions: int) -> Cut:
        """ConfigError where there are too few entities for that many."""
        cut = cls(entities, -(-entities // partitions))
        if cut.partitions != partitions:
            raise ConfigError(
                f"partitions={partitions}: {entities:,} entities, {cut.rows} a partition, fill {cut.partitions} of them"
            )
        return cut

    @property
    def partitions(self) -> int:
        return -(-self.entities // self.rows)

    def start(self, partition: int) -> int:
        """Its first entity."""
        return partition * self.rows

    def size(self, partition: int) -> int:
        return min(self.rows, self.entities - self.start(partition))


@dataclass(frozen=True)
class Group:
    """Triples that are trained on together: those in `buckets`, while the `resident` partitions are in memory."""

    resident: tuple[int, ...]
    buckets: tuple[Bucket, ...]


class Order:
    """The groups of each epoch: every bucket once, with one of the resident sets that have both of its partitions. A
    set differs from the one before in one partition, and an epoch begins with the last set of the one before.

    Which partition plays which part, and which set a bucket goes with, is drawn anew for each epoch: triples meet
    other negatives, and other triples, than in the last one.
    """

    def __init__(self, partitions: int, resident: int, seed: int):
        self.sets, self.partitions, self.seed = resident_sets(partitions, resident), partitions, seed
        self.parts: list[list[int]] = []  # of each epoch so far, the partitions in their parts
        self.found: dict[int, list[Group]] = {}

    def groups(self, epoch: int) -> list[Group]:
        """Those of an epoch; the last few are kept."""
        if epoch not in self.found:
            self.found = {**dict([*self.found.items()][-2:]), epoch: self.make(epoch)}
        return self.found[epoch]

    def make(self, epoch: int) -> list[Group]:
        while len(self.parts) <= epoch:
            self.parts.append(self.drawn(len(self.parts)))
        sets = [tuple(sorted(self.parts[epoch][part] for part in one)) for one in self.sets]
        choices: dict[Bucket, list[int]] = {}
        for place, held in enumerate(sets):
            for bucket in product(held, held):
                choices.setdefault(bucket, []).append(place)
        draws = torch.rand(len(choices), generator=generator(self.seed, f"buckets {epoch}")).tolist()
        buckets: list[list[Bucket]] = [[] for _ in sets]
        for bucket, draw in zip(sorted(choices), draws, strict=True):
            places = choices[bucket]
            buckets[places[int(draw * len(places))]].append(bucket)
        return [Group(held, tuple(own)) for held, own in zip(sets, buckets, strict=True)]

    def drawn(self, epoch: int) -> list[int]:
        """The partitions in their parts: first, in any order, those that are in memory already."""
        resident = [self.parts[-1][part] for part in self.sets[-1]] if epoch else []
        others = [partition for partition in range(self.partitions) if partition not in resident]
        random = generator(self.seed, f"partitions {epoch}")
        return [some[place] for some in (resident, others) for place in torch.randperm(len(some), generator=random)]


def resident_sets(partitions: int, resident: int) -> list[tuple[int, ...]]:
    """Resident sets, each ascending and with one other partition than the one before: all pairs meet in one of them.
    BETA's order of blocks of partitions, whose own come one after the other."""
    block = max(size for size in range(1, max(resident // FEWEST_BLOCKS, 1) + 1) if resident % size == 0)
    held = list(range(resident))
    sets = [tuple(held)]
    for blocks in beta(-(-partitions // block), resident // block):
        wanted = [part for one in blocks for part in range(one * block, min((one + 1) * block, partitions))]
        leaving = [part for part in held if part not in wanted]
        for coming in (part for part in wanted if part not in held):
            held = [*(part for part in held if part != leaving[0]), coming]
            leaving = leaving[1:]
            sets.append(tuple(sorted(held)))
    return sets


def beta(blocks: int, resident: int) -> list[tuple[int, ...]]:
    """Sets of blocks that have all pairs, each with one other block than the one before."""
    places, waiting = list(range(resident)), list(range(resident, blocks))
    sets = [tuple(places)]
    while waiting:
        passing = [*waiting, places[-1]]
        for block in waiting:
            places[-1] = block
            sets.append(tuple(places))
        passing.remove(places[-1])
        for place in range(min(resident - 1, len(passing))):  # what stood here has met all
            places[place] = passing.pop(0)
            sets.append(tuple(places))
        waiting = passing
    return sets


def fewest_swaps(partitions: int, resident: int) -> int:
    """No order has fewer: the first set has c (c - 1) / 2 of the p (p - 1) / 2 pairs, a swap adds c - 1 at most."""
    left = (partitions * (partitions - 1) - resident * (resident - 1)) // 2
    return -(-left // (resident - 1))
