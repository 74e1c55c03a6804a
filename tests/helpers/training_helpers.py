"""A small graph that every score can learn, and short runs on it."""

import io

import torch
from rich.console import Console

from kgfast.data import KnowledgeGraph
from kgfast.train import TrainConfig, train
from kgfast.train import loop as training_loop

LEFT, RIGHT, MEMBERS, RELATIONS = 5, 7, 6, 3  # groups on either side, entities in a group
ENTITIES = (LEFT + RIGHT) * MEMBERS


def grouped_graph(seed=0):
    """72 entities in 5 groups on the left and 7 on the right: relation r leads from every member of left
    group g to every member of right group g + r, 540 triples, which suits translations, rotations and
    products alike.

    A sixth of the triples is held out, half for valid and half for test.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [
        (MEMBERS * group + member, relation, MEMBERS * (LEFT + group + relation) + other)
        for group in range(LEFT)
        for relation in range(RELATIONS)
        for member in range(MEMBERS)
        for other in range(MEMBERS)
    ]
    triples = torch.tensor(rows)[torch.randperm(len(rows), generator=generator)]
    held = len(triples) // 12
    return KnowledgeGraph.from_arrays(
        triples[2 * held :],
        triples[:held],
        triples[held : 2 * held],
        num_entities=ENTITIES,
        num_relations=RELATIONS,
        entity_names=[f"entity {i}" for i in range(ENTITIES)],
    )


def write_dataset(graph, folder):
    """The graph as train.txt, valid.txt and test.txt."""
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        lines = [
            f"{graph.entity_names[h]}\t{graph.relation_names[r]}\t{graph.entity_names[t]}\n"
            for h, r, t in getattr(graph, split).tolist()
        ]
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def small_config(out, **settings):
    """Short and with everything that depends on position: sides by turns, a schedule, weights, validation."""
    defaults = dict(
        data="arrays", out=str(out), model="complex", dim=16, batch_size=64, negatives=8, epochs=6, lr=0.1,
        objective="softmax", side="alternate", subsampling=True, lr_schedule="cosine", validate_every=2,
        threads=1, tensorboard=False,
    )  # fmt: skip
    return TrainConfig(**{**defaults, **settings})


def run(config, graph, *, resume=False):
    """Train; (metrics, what was printed)."""
    console = Console(file=io.StringIO(), width=200)
    threads = torch.get_num_threads()
    try:
        metrics = train(config, resume=resume, console=console, graph=graph)
    finally:
        torch.set_num_threads(threads)
    return metrics, console.file.getvalue()


def same_bits(first, second):
    """Whether two dictionaries hold the same tensors, bit for bit, and the same numbers."""
    if first.keys() != second.keys():
        return False
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            other = second[key]
            if value.dtype != other.dtype or value.shape != other.shape:
                return False
            if value.contiguous().numpy().tobytes() != other.contiguous().numpy().tobytes():
                return False
        elif value != second[key]:
            return False
    return True


def stop_at(monkeypatch, index, action):
    """Before step `index`, once."""
    build = training_loop.build_step

    def build_stopping(*arguments):
        step = build(*arguments)

        def stopping(triples, at, weights):
            if at == index:
                action()
            return step(triples, at, weights)

        if hasattr(step, "draws"):  # partitioned tables say where it draws from
            stopping.draws = step.draws
        return stopping

    monkeypatch.setattr(training_loop, "build_step", build_stopping)
