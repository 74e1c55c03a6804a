"""A large graph whose entities and relations are as unevenly used as real ones: `python -m benchmarks.zipf_graph FILE`.

Lines of head, relation and tail between tabs, made block by block. Every entity occurs, and the same seed gives the
same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from benchmarks.inputs import EXPONENT

BLOCK = 1 << 20  # triples
STRIDE = 2_654_435_761  # a prime, which puts frequent entities and the order of lines apart


def draws(count: int, size: int, random: np.random.Generator) -> np.ndarray:
    """int64 [size] below `count`: rank k in proportion to k^-EXPONENT, by the inverse of its integral."""
    return (count * random.random(size) ** (1 / (1 - EXPONENT))).astype(np.int64)


def blocks(entities: int, relations: int, triples: int, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Heads, relations and tails, block by block. The heads of evenly spread triples are each entity once."""
    if not 0 < entities <= triples:
        raise ValueError("a graph has at least one triple an entity")
    random = np.random.default_rng(seed)
    for start in range(0, triples, BLOCK):
        places = np.arange(start, min(start + BLOCK, triples))
        covered = (places + 1) * entities // triples > places * entities // triples
        heads = np.where(covered, places * entities // triples, draws(entities, len(places), random))
        tails = draws(entities, len(places), random)
        kinds = draws(relations, len(places), random)
        yield [heads * STRIDE % entities, kinds, tails * STRIDE % entities]


def write(path: Path, entities: int, relations: int, triples: int, seed: int = 0) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("head", "relation", "tail")])
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file, pa.csv.CSVWriter(file, schema, write_options=options) as writer:
        for block in blocks(entities, relations, triples, seed):
            names = [
                pc.binary_join_element_wise(pa.scalar(prefix), pa.array(ids).cast(pa.string()), pa.scalar(""))
                for prefix, ids in zip(("/m/0", "/relation/", "/m/0"), block, strict=True)
            ]
            writer.write(pa.table(names, schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--entities", type=int, default=3_800_000)
    parser.add_argument("--relations", type=int, default=500)
    parser.add_argument("--triples", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write(chosen.file, chosen.entities, chosen.relations, chosen.triples, chosen.seed)


if __name__ == "__main__":
    main()
