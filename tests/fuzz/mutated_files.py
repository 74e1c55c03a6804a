"""Files of graphs, texts, questions, settings and runs, changed: each is read, or a KgfastError says why not."""

from __future__ import annotations

import atexit
import functools
import gzip
import io
import random
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import kgfast
from kgfast.joint.config import JointConfig
from kgfast.run.storage import read_manifest
from kgfast.train import TrainConfig, train
from kgfast.train.checkpoint import load_run

TRIPLES = "Berlin\tcapital of\tGermany\nParis\tcapital of\tFrance\nGermany\tborders\tFrance\nFrance\tborders\tGermany\n"
NTRIPLES = "".join(
    f"<http://x/{h}> <http://x/{r}> {t} .\n"
    for h, r, t in (
        ("a", "r", "<http://x/b>"),
        ("b", "r", '"text"@en'),
        ("c#1", "s", "_:blank"),
        ("_:q", "s", '"5"^^<http://x/int>'),
    )
)
SETTINGS = "data: world\nmodel: complex\ndim: 8\nepochs: 1\nbatch_size: 4\nobjective: softmax\nlr: 0.1\nseed: 3\n"
SEEDS: dict[str, dict[str, str]] = {
    "triples": {"train.txt": TRIPLES, "valid.txt": "Paris\tcapital of\tFrance\n"},
    "csv": {"train.csv": "head,relation,tail\n" + TRIPLES.replace("\t", ",") + '"a, b",r,"c ""d"""\n'},
    "tsv": {"train.tsv": "subject\tpredicate\tobject\tyear\n" + TRIPLES.replace("\n", "\t1990\n")},
    "ntriples": {"train.nt": NTRIPLES},
    "texts": {
        "train.txt": TRIPLES,
        "entity2text.txt": "Berlin\tthe city of Berlin\nParis\tthe city of Paris\n",
        "relation2text.txt": "borders\tis beside\n",
        "entity2desc.txt": "Germany\ta country in Europe\n",
    },
    "questions": {
        "train.txt": TRIPLES,
        "qa_train.txt": "what borders [Germany]?\tGermany\tFrance\nof what is Paris capital?\tParis\tFrance|Germany\n",
        "qa_test.txt": "what borders France?\tFrance\tGermany\n",
    },
    "settings": {"settings.yaml": SETTINGS},
    "joint_settings": {
        "settings.yaml": "data: world\ntasks: {mlm: {weight: 1.0}, link: {weight: 0.5}}\n"
        "backbone: {layers: 2, hidden: 16, heads: 2}\nlr: 0.1\nseed: 3\n"
    },
    "run": {},
}
PIECES = [
    b"",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b" ",
    b"|",
    b",",
    b";",
    b'"',
    b"'",
    b"<",
    b">",
    b"\\",
    b"\\u12",
    b"\\U00110000",
    b"_:",
    b".",
    b"#",
    b":",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"&a ",
    b"*a",
    b"!!python/object:os.system ",
    b"!!binary ",
    b"<<: ",
    b"%YAML 9",
    b"---\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"\x1f\x8b",
    b"PAR1",
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b"9" * 400,
    b"18446744073709551616",
    b"null",
    b"true",
    b"~",
    b"head\trelation\ttail\n",
    b"a\tb\n",
    b"a\tb\tc\td\n",
    b"\t\t\n",
    b"x" * 3000,
]


def mutated(text: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes."""
    for _ in range(chance.randint(1, 4)):
        place, end = sorted(chance.randint(0, len(text)) for _ in range(2))
        kind = chance.randrange(7)
        if kind == 0:
            text = text[:place] + chance.choice(PIECES) + text[place:]
        elif kind == 1:
            text = text[:place] + chance.choice(PIECES) + text[min(place + chance.randint(1, 8), len(text)) :]
        elif kind == 2 and text:
            place = min(place, len(text) - 1)
            text = text[:place] + bytes([text[place] ^ 1 << chance.randrange(8)]) + text[place + 1 :]
        elif kind == 3:
            text = text[:place] + text[end:]  # a part is missing
        elif kind == 4:
            text = text[:end] + text[place:end] * chance.randint(1, 5) + text[end:]  # a part stands several times
        elif kind == 5:
            lines = text.splitlines(keepends=True)
            chance.shuffle(lines)
            text = b"".join(lines)
        else:
            text = text[:place] + bytes(chance.randrange(256) for _ in range(chance.randint(1, 6))) + text[place:]
    return text


def write_kind(kind: str, folder: Path) -> None:
    """The files of a kind as they are right."""
    if kind == "run":
        shutil.copytree(trained_run(), folder, dirs_exist_ok=True)
    for name, text in SEEDS[kind].items():
        (folder / name).write_text(text, encoding="utf-8")


def make_folder(number: int, seed: int, folder: Path) -> str:
    """Writes the files of a number, one or two of them mutated; returns their kind."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choice(list(SEEDS))
    write_kind(kind, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in set(chance.choices(files, k=1 if kind == "run" else 2)):
        data = mutated(path.read_bytes(), chance)
        if kind not in ("run", "settings", "joint_settings") and chance.random() < 0.1:
            path.unlink()
            path, data = path.with_name(f"{path.name}.gz"), gzip.compress(data)
            data = mutated(data, chance) if chance.random() < 0.5 else data
        path.write_bytes(data)
    return kind


def read_graph(folder: Path, chance: random.Random) -> None:
    """Reads a graph, asks it something, and reads again what it saves."""
    options: dict[str, Any] = chance.choice(
        (
            {},
            {},
            {"header": True},
            {"header": False},
            {"columns": "1,2,3"},
            {"columns": "head,relation,tail"},
            {"iris": "whole"},
        )
    )
    graph = kgfast.KnowledgeGraph.load(folder, cache=False, **options)
    (
        str(graph.report),
        repr(graph),
        graph.report.lines(),
        graph.known(),
        graph.label(0),
        graph.entity_id(graph.entity_names[0]),
    )
    saved = folder / "saved"
    graph.save(saved, chance.choice((".txt", ".csv", ".parquet")))
    again = kgfast.KnowledgeGraph.load(saved, cache=False)
    for split in ("train", "valid", "test"):
        assert len(getattr(again, split)) == len(getattr(graph, split)), (
            f"{split} has another number of triples when read again"
        )


@functools.cache
def trained_run() -> Path:
    """A run of a moment, made once."""
    folder = Path(tempfile.mkdtemp(prefix="kgfast-fuzz-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "train.txt").write_text(TRIPLES, encoding="utf-8")
    config = TrainConfig(
        data=str(folder / "train.txt"),
        out=str(folder / "run"),
        model="complex",
        dim=4,
        batch_size=2,
        negatives=2,
        epochs=1,
        lr=0.1,
        threads=1,
        tensorboard=False,
        validate_every=0,
    )
    train(config, console=Console(file=io.StringIO()))
    for name in ("report.html", "tensorboard"):
        path = folder / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder / "run"


def read_run(folder: Path, chance: random.Random) -> None:
    """A run's folder: its model ranks a triple."""
    model, names, _ = load_run(folder)
    model.rank(torch.tensor([[0, 0, 1]]), "tail"), names.entity_names[0], read_manifest(folder)


def read_settings(folder: Path, chance: random.Random) -> None:
    TrainConfig.load(folder / "settings.yaml")


def read_joint_settings(folder: Path, chance: random.Random) -> None:
    JointConfig.load(folder / "settings.yaml")


READERS: dict[str, Callable[[Path, random.Random], None]] = {
    "settings": read_settings,
    "joint_settings": read_joint_settings,
    "run": read_run,
}


def complaint(number: int, seed: int) -> str | None:
    """What is not right about the reading of a number's files; None where it works or an error says why not."""
    folder = Path(tempfile.mkdtemp(prefix="kgfast-fuzz-"))
    try:
        kind = make_folder(number, seed, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS.get(kind, read_graph)(folder, random.Random(number))
    except kgfast.KgfastError as error:
        return None if str(error).strip() else f"{type(error).__name__} without words"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{kind}: {type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None
