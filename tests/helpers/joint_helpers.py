"""Towns and countries with texts and questions, a world that every task can learn, and short joint runs on it."""

import io

import torch
from rich.console import Console

from kgfast.data import KnowledgeGraph
from kgfast.joint.config import JointConfig
from kgfast.joint.loop import train_joint

SMALL = dict(
    dim=16, lr=2e-3, warmup=0, lr_schedule="constant", threads=1, tensorboard=False, device="cpu",
    backbone=dict(hidden=16, layers=1, heads=2, max_length=24), tokenizer=dict(vocabulary=400),
    corpus=dict(held_out=0.1),
)  # fmt: skip
BATCHES = dict(mlm=8, clm=8, nsp=8, link=32, relation=32, qa=16, contrast=8, mention=8)


def write_towns(folder, countries=6, towns=6, questions=True, texts=True):
    """Towns lie in countries, countries have colours and neighbours; every fact is told by a text as well."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = ["red", "green", "blue"]
    facts, texts_of, asked = [], {}, []
    for c in range(countries):
        country, colour = f"country{c}", colours[c % 3]
        facts += [(country, "has_colour", colour), (country, "borders", f"country{(c + 1) % countries}")]
        texts_of[country] = f"This land is a country. Its flag is {colour}."
        asked.append((f"what colour has {country}", country, [colour]))
        for t in range(towns):
            town = f"town{c}x{t}"
            facts.append((town, "lies_in", country))
            texts_of[town] = f"This place is a town of country{c}. Its people wave a {colour} flag."
            asked.append((f"where does {town} lie", town, [country]))
            asked.append((f"what is the flag of {town}", town, [colour]))
    for colour in colours:
        texts_of[colour] = f"This is a colour. Flags may be {colour}."
    order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(0)).tolist()
    held = {facts[i] for i in order if facts[i][1] == "lies_in"}
    held = sorted(held)[:: max(1, len(held) // 4)][:4]
    splits = {"train": [fact for fact in facts if fact not in held], "valid": held[:2], "test": held[2:]}
    for split, rows in splits.items():
        (folder / f"{split}.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
    if texts:
        (folder / "entity2text.txt").write_text("".join(f"{name}\t{name}\n" for name in texts_of))
        (folder / "entity2desc.txt").write_text("".join(f"{name}\t{text}\n" for name, text in texts_of.items()))
    if questions:
        for split, rows in (("train", asked[::2] + asked[1::4]), ("valid", asked[3::8]), ("test", asked[3::4])):
            lines = (f"{text}\t{topic}\t{'|'.join(answers)}\n" for text, topic, answers in rows)
            (folder / f"qa_{split}.txt").write_text("".join(lines))
    return folder


def towns(tmp_path_factory, **options):
    folder = write_towns(tmp_path_factory.mktemp("towns") / "towns", **options)
    return KnowledgeGraph.load(folder, cache=False)


def joint_config(out, tasks=("link",), **settings):
    """Short runs: every task in small batches."""
    named = {name: {"batch_size": BATCHES[name]} for name in tasks} if not isinstance(tasks, dict) else tasks
    values = {**SMALL, "data": "towns", "out": str(out), "tasks": named, "steps": 4, **settings}
    if "epochs" in settings and "steps" not in settings:
        del values["steps"]
    return JointConfig(**values)


def run_joint(config, graph, *, resume=False):
    """Train; (metrics, what was printed)."""
    console = Console(file=io.StringIO(), width=200)
    threads = torch.get_num_threads()
    try:
        metrics = train_joint(config, resume=resume, console=console, graph=graph)
    finally:
        torch.set_num_threads(threads)
    return metrics, console.file.getvalue()
