"""The arguments of the public functions: a value that is right, and those that are wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import wrong_values as wrong

import kgfast
from kgfast import nn, optim, steps

ENTITIES, RELATIONS, BATCH, DIM = 6, 2, 3, 4
IMPLS = (None, "cpu", "reference")


@dataclass(frozen=True)
class Argument:
    """A value that is right, made anew for each call, values that are wrong, and other names an error may give it."""

    right: Callable[[], Any]
    wrong: wrong.Makers
    names: tuple[str, ...] = ()


def constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def ones(*shape: int) -> torch.Tensor:
    return torch.linspace(0.1, 1.0, torch.Size(shape).numel()).view(shape)


def triples(batch: int = BATCH) -> torch.Tensor:
    return torch.tensor([[0, 0, 1], [ENTITIES - 1, RELATIONS - 1, 0], [2, 1, 3]])[:batch]


def known() -> kgfast.KnownTriples:
    return kgfast.KnownTriples.from_triples(triples(), ENTITIES, RELATIONS)


def model(**options: Any) -> nn.KGEModel:
    return nn.KGEModel(ENTITIES, RELATIONS, DIM, score="complex", **options)


def graph() -> kgfast.KnowledgeGraph:
    return kgfast.KnowledgeGraph.from_arrays(triples())


# ---- arguments that several functions have ------------------------------------------------------------------

# the answer's column is not read by some, so what is out of range stands in the other ones
TRIPLES = Argument(
    triples,
    wrong.without(wrong.ids((BATCH, 3), ENTITIES), "longer", "beyond", "below", "far", "lowest")
    | {
        "two_columns": lambda: torch.zeros(BATCH, 2, dtype=torch.int64),
        "one_triple": lambda: triples()[0],
        "head_beyond": lambda: triples() + torch.tensor([ENTITIES, 0, 0]),
        "head_below": lambda: triples() - torch.tensor([ENTITIES, 0, 0]),
        "relation_beyond": lambda: triples() + torch.tensor([0, RELATIONS, 0]),
        "relation_far": lambda: triples() + torch.tensor([0, 2**62, 0]),
        "relation_below": lambda: triples() - torch.tensor([0, 9, 0]),
        "tail_beyond": lambda: triples() + torch.tensor([0, 0, ENTITIES]),
        "tail_below": lambda: triples() - torch.tensor([0, 0, 2**62]),
    },
)
SHAPED = Argument(
    triples,
    wrong.without(TRIPLES.wrong, *(word for word in TRIPLES.wrong if word.startswith(("head_", "relation_", "tail_")))),
)
TABLES = {
    "entities": Argument(
        lambda: ones(ENTITIES, DIM),
        wrong.table(
            ENTITIES,
            DIM,
            odd=lambda: ones(ENTITIES, 3),
            empty=lambda: ones(ENTITIES, 0),
            padded=lambda: torch.nn.Embedding(ENTITIES, DIM, padding_idx=0),
            bounded=lambda: torch.nn.Embedding(ENTITIES, DIM, max_norm=1.0),
            by_count=lambda: torch.nn.Embedding(ENTITIES, DIM, scale_grad_by_freq=True),
        ),
        ("relations",),
    ),
    "relations": Argument(
        lambda: ones(RELATIONS, DIM), wrong.table(RELATIONS, DIM, wide=lambda: ones(RELATIONS, DIM + 1))
    ),
    "triples": TRIPLES,
}
SCORE = Argument(constant("complex"), wrong.word("complex"))
SIDE = Argument(constant("tail"), wrong.word("tail"))
IMPL = Argument(constant(None), wrong.word("cpu", none=True))
FLAG = Argument(constant(False), wrong.flag())
KNOWN = Argument(known, wrong.known(ENTITIES, RELATIONS))
MARGIN = Argument(constant(1.0), wrong.number())
POSITIVE = Argument(constant(0.5), wrong.number(0.0))
REDUCTION = Argument(constant("sum"), wrong.word("mean"))
SEED = Argument(constant(1), wrong.integer(None))
STEP = Argument(constant(1), wrong.integer(0, 2**64))
SMOOTHING = Argument(constant(0.1), wrong.number(0.0, 1.0))
OBJECTIVE = Argument(constant("softmax"), wrong.word("softmax"))
WHOLE = ("none", "bool", "uint8", "int32", "int64")  # weights may be whole numbers
WEIGHTS = Argument(
    lambda: torch.ones(BATCH),
    wrong.without(wrong.tensor((BATCH,), torch.float32), *WHOLE)
    | {"negative": lambda: torch.tensor([1.0, -1.0, 1.0]), "one_nan": lambda: torch.tensor([1.0, 1.0, torch.nan])},
)
NEGATIVES = wrong.without(
    wrong.ids(
        (BATCH, 2), ENTITIES, masked=True, no_list=lambda: torch.zeros(0, 2, dtype=torch.int64), no_negative=lambda: 0
    ),
    "three",  # a number of them is right
)
CANDIDATES = wrong.without(wrong.ids((BATCH, 2), ENTITIES), "none", "two_ids")
DRAWS = {
    "num_negatives": Argument(constant(2), wrong.integer(0, 2**25)),
    "seed": SEED,
    "step": STEP,
    "weights": Argument(
        lambda: torch.ones(ENTITIES),
        wrong.without(wrong.tensor((ENTITIES,), torch.float32), *WHOLE)
        | {
            "negative": lambda: torch.arange(-1.0, ENTITIES - 1),
            "zero": lambda: torch.zeros(ENTITIES),
            "inf": lambda: torch.full((ENTITIES,), torch.inf),
        },
    ),
    "known": Argument(known, wrong.without(wrong.known(ENTITIES, RELATIONS), "more_relations")),
    "shared": Argument(constant(0), wrong.integer(0)),
}


# ---- multitask_loss: each field of its terms is an argument ---------------------------------------------------


def term(argument: str | None = None, **given: Any) -> Any:
    """multitask_loss of a list that holds this term."""
    return kgfast.multitask_loss(
        [kgfast.Term(ones(BATCH, DIM), ones(ENTITIES, DIM), torch.zeros(BATCH).long()), kgfast.Term(**given)]
    )


def csr(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(BATCH + 1), torch.arange(BATCH) % count


CSR = (
    wrong.OBJECTS
    | wrong.NUMBERS
    | wrong.TENSORS
    | wrong.ARRAYS
    | {
        "one_part": lambda: (torch.arange(BATCH + 1),),
        "three_parts": lambda: (*csr(ENTITIES), torch.arange(2)),
        "lists": lambda: ([0, 1], [0]),
        "descending": lambda: (torch.tensor([0, 2, 1, 3]), torch.zeros(3).long()),
        "beyond_ids": lambda: (torch.tensor([0, 1, 2, 9]), torch.zeros(3).long()),
        "short": lambda: (torch.tensor([0, 3]), torch.zeros(3).long()),
        "empty": lambda: (torch.zeros(0).long(), torch.zeros(0).long()),
        "beyond": lambda: (torch.arange(BATCH + 1), torch.full((BATCH,), ENTITIES)),
        "below": lambda: (torch.arange(BATCH + 1), torch.full((BATCH,), -1)),
        "floats": lambda: (torch.arange(BATCH + 1.0), torch.zeros(BATCH)),
    }
)
TERM = {
    "query": Argument(lambda: ones(BATCH, DIM), wrong.table(BATCH, DIM, wide=lambda: ones(BATCH, DIM + 1))),
    "table": Argument(lambda: ones(ENTITIES, DIM), wrong.table(ENTITIES, DIM, wide=lambda: ones(ENTITIES, DIM + 1))),
    "targets": Argument(
        lambda: torch.zeros(BATCH).long(),
        wrong.without(wrong.ids((BATCH,), ENTITIES), "two_ids", "none") | wrong.without(CSR, "two_ids"),
    ),
    "weight": MARGIN,
    "bias": Argument(lambda: ones(ENTITIES), wrong.without(wrong.tensor((ENTITIES,), torch.float32), "none")),
    "ignore_index": Argument(constant(-100), wrong.integer(-(2**63), 2**63)),
    "known": Argument(lambda: csr(ENTITIES), wrong.without(CSR, "none")),
    "candidates": Argument(
        lambda: torch.arange(2), wrong.without(wrong.ids((2,), ENTITIES), "none", "two_ids", "longer")
    ),
    "similarity": Argument(constant("dot"), wrong.word("dot") | {"with_bias": lambda: "l1"}, ("bias",)),
    "objective": OBJECTIVE,
}
TERM_WITHOUT_CANDIDATES = {name: one for name, one in TERM.items() if name != "candidates"}


def losses(**given: Any) -> Any:
    return kgfast.multitask_loss([kgfast.LossTerm(**given)])


def multitask(impl: str | None = None, **given: Any) -> Any:
    return kgfast.multitask_loss(**given, impl=impl)


def right_term() -> kgfast.Term:
    return kgfast.Term(**{name: argument.right() for name, argument in TERM.items()})


# ---- steps, optimizers, graphs ------------------------------------------------------------------------------


def step_of(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a step, with an optimizer of its model unless one is given."""

    def make(model: Any = None, optimizer: Any = None, **options: Any) -> Any:
        model = fresh_model() if model is None else model
        return kind(model, sgd(model) if optimizer is None else optimizer, **options)

    return make


fresh_model = model


def sgd(model: nn.KGEModel) -> optim.RowOptimizer:
    return optim.RowSGD(model.parameters() if isinstance(model, nn.KGEModel) else [torch.nn.Parameter(ones(2, 2))])


def run_step(**given: Any) -> Any:
    return step_of(steps.NegativeSamplingStep)(negatives=2)(**given)


def run_step_over_all(**given: Any) -> Any:
    return step_of(steps.OneVsAllStep)()(**given)


def run_host_step(**given: Any) -> Any:
    return step_of(steps.HostTablesStep)(device="cpu", negatives=2)(**given)


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(ones(3, 4))]


def file_of_triples() -> Path:
    """A graph of three triples."""
    path = Path(tempfile.gettempdir()) / "kgfast-fuzz.tsv"
    if not path.exists():
        path.write_text("a\tr\tb\nb\tr\tc\nc\ts\ta\n", encoding="utf-8")
    return path


def saved(folder: Any, **options: Any) -> Any:
    """Saves a graph; one that is right goes into a folder of its own."""
    with tempfile.TemporaryDirectory() as own:
        return graph().save(Path(own) / "graph" if isinstance(folder, str) and folder == "own" else folder, **options)


PARAMS = Argument(
    parameters,
    wrong.OBJECTS
    | wrong.NUMBERS
    | wrong.without(wrong.TENSORS)
    | wrong.ARRAYS
    | {
        "vector": lambda: [torch.nn.Parameter(ones(3))],
        "no_tensor": lambda: [3],
        "ids": lambda: [torch.zeros(2, 2).long()],
        "no_params": lambda: [{"lr": 1.0}],
        "twice": lambda: parameters() * 2,
        "no_leaf": lambda: [parameters()[0] * 2],
        "sparse_table": lambda: [torch.eye(3).to_sparse()],
        "complex_table": lambda: [torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))],
    },
    ("param",),
)
LR = POSITIVE
EPS = Argument(constant(1e-8), wrong.number(0.0) | {"zero": lambda: 0})
BETAS = Argument(
    constant((0.9, 0.99)),
    wrong.OBJECTS
    | wrong.NUMBERS
    | wrong.NOT_FINITE
    | wrong.TENSORS
    | wrong.ARRAYS
    | {
        "one": lambda: (0.9,),
        "three": lambda: (0.9, 0.9, 0.9),
        "strings": lambda: ("0.9", "0.9"),
        "too_high": lambda: (0.9, 1.0),
        "with_nan": lambda: (float("nan"), 0.9),
    },
)
INDEX = Argument(constant(3), wrong.integer(0, 2**63))
WITHIN_ONE = Argument(constant(0.1), wrong.number(0.0) | {"one": lambda: 1.0})
# alone, a wrong model has no parameters that fit
MODEL = Argument(model, wrong.instance() | {"module": lambda: torch.nn.Linear(2, 2), "class": lambda: nn.KGEModel})
OPTIMIZER = {
    "torch": lambda: torch.optim.SGD(model().parameters()),
    "another": lambda: sgd(model()),
    "class": lambda: optim.RowSGD,
}
STEP_OPTIONS = {
    "model": Argument(constant(None), wrong.without(MODEL.wrong, "none")),
    "optimizer": Argument(constant(None), wrong.instance(none=True) | OPTIMIZER),
    "seed": SEED,
    "side": Argument(constant("both"), wrong.word("both")),
    "regularizer": Argument(constant("l2"), wrong.word("l2", none=True)),
    "regularizer_weight": POSITIVE,
    "query_dropout": WITHIN_ONE,
}
COUNTS = wrong.tensor((ENTITIES,), torch.int64) | {
    "negative": lambda: torch.arange(ENTITIES) - 2,
    "zero": lambda: torch.zeros(ENTITIES).long(),
}
SAMPLED_OPTIONS = STEP_OPTIONS | {
    "negatives": Argument(constant(2), wrong.integer(1, 2**25)),
    "sharing": Argument(constant("none"), wrong.word("chunk")),
    "chunk": Argument(constant(2), wrong.integer(1)),
    "objective": OBJECTIVE,
    "margin": MARGIN,
    "adversarial_temperature": POSITIVE,
    "negative_power": Argument(constant(0.5), wrong.number(0.0)),
    "filter": Argument(constant("mask"), wrong.word("mask")),
    "entity_counts": Argument(
        lambda: torch.ones(ENTITIES).long(),
        wrong.without(COUNTS, "float32", "uint8", "int32", "float16", "bool", "none"),
    ),
    "known": Argument(known, wrong.known(ENTITIES, RELATIONS, none=False)),
}
MODEL_OPTIONS = {
    "num_entities": Argument(constant(4), wrong.integer(1, 2**31)),
    "num_relations": Argument(constant(2), wrong.integer(1, 2**31)),
    "dim": Argument(constant(4), wrong.integer(1, 2**63)),
    "seed": SEED,
    "reciprocal": FLAG,
    "init_scale": Argument(constant(0.1), wrong.number(0.0, none=True)),
    "dtype": Argument(
        constant(torch.float32),
        wrong.instance()
        | {"long": lambda: torch.int64, "imaginary": lambda: torch.complex64, "flags": lambda: torch.bool},
    ),
}
ASKED = {"triples": TRIPLES, "side": SIDE}
ROWS = wrong.without(wrong.OBJECTS | wrong.NUMBERS | wrong.NOT_FINITE, "nested_list") | {
    "floats": lambda: [[0.5, 0, 1]],
    "two_columns": lambda: [[0, 1]],
    "ragged": lambda: [[0, 0, 1], [0, 0]],
    "negative": lambda: [[0, 0, -1]],
    "beyond": lambda: [[0, 0, 2**40]],
    "enormous": lambda: [[0, 0, 2**64]],
    "meta": lambda: torch.zeros(2, 3, dtype=torch.int64, device="meta"),
    "sparse_ids": lambda: triples().to_sparse(),
    "flags": lambda: torch.ones(2, 3, dtype=torch.bool),
    "imaginary": lambda: torch.ones(2, 3, dtype=torch.complex64),
    "nested": wrong.TENSORS["nested"],
    "array_of_floats": lambda: wrong.ARRAYS["array"](),
    "dates": lambda: __import__("numpy").zeros((2, 3), "datetime64[s]"),
}
NAMES = wrong.without(wrong.OBJECTS | wrong.NUMBERS | wrong.NOT_FINITE | wrong.TENSORS | wrong.ARRAYS, "none") | {
    "numbers": lambda: list(range(ENTITIES)),
    "few": lambda: ["a"],
    "twice": lambda: ["a"] * ENTITIES,
    "with_empty": lambda: ["", *"bcdef"],
    "with_surrogate": lambda: ["\ud800", *"bcdef"],
    "a_string": lambda: "abcdef",
}
PATHS = (
    wrong.OBJECTS
    | wrong.NUMBERS
    | wrong.TENSORS
    | {"null": lambda: "a\0b", "long": lambda: "x" * 5000, "missing": lambda: "no/such/file.tsv"}
)
SCORE_OPTIONS = {
    "name": Argument(
        constant("fuzzed"),
        wrong.OBJECTS | wrong.NUMBERS | {"own": lambda: "distmult", "spaces": lambda: "a b"},
        ("score", "fuzzed"),
    ),
    "similarity": Argument(constant("dot"), wrong.word("dot")),
    "tail_query": Argument(
        constant(torch.mul),
        wrong.OBJECTS | wrong.NUMBERS | {"sum": lambda: torch.add, "raises": lambda: lambda a, b: 1 / 0},
    ),
    "head_query": Argument(constant(torch.mul), wrong.OBJECTS | wrong.NUMBERS | {"sum": lambda: torch.add}),
    "relation_width": Argument(
        constant(lambda dim: dim),
        wrong.without(wrong.OBJECTS, "type")
        | wrong.NUMBERS
        | {"negative": lambda: lambda dim: -1, "raises": lambda: lambda dim: 1 / 0},
    ),
    "relation_query": Argument(constant(torch.mul), wrong.without(wrong.OBJECTS | wrong.NUMBERS, "none")),
    "even_dim": FLAG,
    "complex_rows": FLAG,
    "phases": FLAG,
}
