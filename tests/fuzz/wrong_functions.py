"""Every public function with its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import wrong_values as wrong
from wrong_arguments import (
    ASKED,
    BATCH,
    BETAS,
    CANDIDATES,
    DIM,
    DRAWS,
    ENTITIES,
    EPS,
    FLAG,
    INDEX,
    KNOWN,
    LR,
    MARGIN,
    MODEL_OPTIONS,
    NAMES,
    NEGATIVES,
    OBJECTIVE,
    PARAMS,
    PATHS,
    POSITIVE,
    REDUCTION,
    RELATIONS,
    ROWS,
    SAMPLED_OPTIONS,
    SCORE,
    SCORE_OPTIONS,
    SHAPED,
    SIDE,
    SMOOTHING,
    STEP_OPTIONS,
    TABLES,
    TERM,
    TERM_WITHOUT_CANDIDATES,
    TRIPLES,
    WEIGHTS,
    Argument,
    constant,
    file_of_triples,
    graph,
    known,
    losses,
    model,
    multitask,
    ones,
    right_term,
    run_host_step,
    run_step,
    run_step_over_all,
    saved,
    step_of,
    term,
    triples,
)

import kgfast
from kgfast import nn, optim, steps


@dataclass(frozen=True)
class Function:
    """A public function by its keywords; `impls`: whether it takes `impl`."""

    call: Callable[..., Any]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    impls: bool = True


def method(owner: Callable[[], Any], name: str) -> Callable[..., Any]:
    """A method of an object that is made anew for each call."""
    return lambda **given: getattr(owner(), name)(**given)


def fields(**options: Any) -> Any:
    """What a NegativeSampler with these fields draws in a loss."""
    sampler = kgfast.NegativeSampler(**options)
    return kgfast.negative_sampling_loss(
        ones(ENTITIES, DIM), ones(RELATIONS, DIM), triples(), sampler, score="complex", side="tail"
    )


FUNCTIONS: dict[str, Function] = {
    "score_triples": Function(kgfast.score_triples, TABLES | {"score": SCORE, "sparse_grad": FLAG}),
    "score_candidates": Function(
        kgfast.score_candidates,
        TABLES
        | {
            "candidates": Argument(lambda: torch.zeros(BATCH, 2).long(), CANDIDATES),
            "score": SCORE,
            "side": SIDE,
            "sparse_grad": FLAG,
        },
    ),
    "sample_negatives": Function(
        kgfast.sample_negatives,
        DRAWS
        | {
            "triples": SHAPED,
            "num_entities": Argument(constant(ENTITIES), wrong.integer(1, 2**31), ("weights", "known")),
            "side": SIDE,
        },
    ),
    "negative_sampling_loss": Function(
        kgfast.negative_sampling_loss,
        TABLES
        | {
            "negatives": Argument(lambda: torch.zeros(BATCH, 2).long(), NEGATIVES),
            "score": SCORE,
            "side": SIDE,
            "objective": OBJECTIVE,
            "margin": MARGIN,
            "adversarial_temperature": POSITIVE,
            "weights": WEIGHTS,
            "known": KNOWN,
            "reduction": REDUCTION,
            "sparse_grad": FLAG,
        },
    ),
    "one_vs_all_loss": Function(
        kgfast.one_vs_all_loss,
        TABLES
        | {
            "score": SCORE,
            "side": SIDE,
            "objective": OBJECTIVE,
            "label_smoothing": SMOOTHING,
            "known": KNOWN,
            "reduction": REDUCTION,
        },
    ),
    "linear_cross_entropy": Function(
        kgfast.linear_cross_entropy,
        {
            "hidden": Argument(
                lambda: ones(BATCH, DIM),
                wrong.table(BATCH, DIM, wide=lambda: ones(BATCH, DIM + 1)),
                ("weight", "targets"),
            ),
            "weight": Argument(
                lambda: ones(ENTITIES, DIM), wrong.table(ENTITIES, DIM, wide=lambda: ones(ENTITIES, DIM + 1))
            ),
            "targets": Argument(lambda: torch.zeros(BATCH).long(), wrong.ids((BATCH,), ENTITIES), ("hidden",)),
            "bias": Argument(lambda: ones(ENTITIES), wrong.without(wrong.tensor((ENTITIES,), torch.float32), "none")),
            "ignore_index": Argument(constant(-100), wrong.integer(-(2**63), 2**63)),
            "label_smoothing": SMOOTHING,
            "reduction": REDUCTION,
        },
    ),
    "multitask_loss": Function(
        multitask,
        {
            "terms": Argument(
                lambda: [right_term()],
                wrong.without(wrong.OBJECTS, "nested")
                | wrong.NUMBERS
                | wrong.TENSORS
                | wrong.ARRAYS
                | {"classes": lambda: [kgfast.Term]},
            ),
            "weights": Argument(
                lambda: [1.0],
                wrong.without(wrong.OBJECTS, "none")
                | wrong.NUMBERS
                | wrong.NOT_FINITE
                | wrong.TENSORS
                | wrong.ARRAYS
                | {
                    "strings": lambda: ["1x"],
                    "with_nan": lambda: [float("nan")],
                    "with_none": lambda: [None],
                    "meta": lambda: torch.ones(1, device="meta"),
                },
            ),
        },
    ),
    "Term": Function(term, TERM, impls=False),
    "Term.without_candidates": Function(term, TERM_WITHOUT_CANDIDATES, impls=False),
    "LossTerm": Function(
        losses,
        {
            "losses": Argument(
                lambda: ones(3),
                wrong.without(wrong.tensor((3,), torch.float32), "scalar", "longer", "tensor_nan", "two_numbers"),
            ),
            "weight": MARGIN,
        },
        impls=False,
    ),
    "rank": Function(
        kgfast.rank,
        TABLES
        | {
            "score": SCORE,
            "side": SIDE,
            "known": KNOWN,
            "ties": Argument(constant("realistic"), wrong.word("realistic")),
        },
    ),
    "topk": Function(
        kgfast.topk,
        TABLES | {"k": Argument(constant(2), wrong.integer(1, 2**31)), "score": SCORE, "side": SIDE, "exclude": KNOWN},
    ),
    "NegativeSampler": Function(fields, DRAWS, impls=False),
    "KnownTriples.from_triples": Function(
        kgfast.KnownTriples.from_triples,
        {
            "triples": Argument(triples, ROWS),
            "num_entities": Argument(constant(ENTITIES), wrong.integer(1, 2**63), ("triples",)),
            "num_relations": Argument(constant(RELATIONS), wrong.integer(1, 2**63), ("triples",)),
        },
        impls=False,
    ),
    "KnownTriples.lookup": Function(method(known, "lookup"), {"triples": SHAPED, "side": SIDE}, impls=False),
    "KnownTriples.ids": Function(method(known, "ids"), {"side": SIDE}, impls=False),
    "KnownTriples.answers": Function(
        method(known, "answers"),
        {"triple": Argument(constant((0, 0, 1)), wrong.OBJECTS | wrong.NUMBERS | wrong.TENSORS), "side": SIDE},
        impls=False,
    ),
    "KnownTriples.to": Function(
        method(known, "to"),
        {"device": Argument(constant("cpu"), wrong.without(wrong.OBJECTS, "none") | {"minus": lambda: -1})},
        impls=False,
    ),
    "register_score": Function(kgfast.register_score, SCORE_OPTIONS, impls=False),
    "KnowledgeGraph.from_arrays": Function(
        kgfast.KnowledgeGraph.from_arrays,
        {
            "train": Argument(triples, ROWS),
            "valid": Argument(triples, wrong.without(ROWS, "none")),
            "num_entities": Argument(
                constant(ENTITIES), wrong.without(wrong.integer(1, 2**31), "none"), ("train", "entity_names")
            ),
            "num_relations": Argument(
                constant(RELATIONS), wrong.without(wrong.integer(1, 2**31), "none"), ("train", "relation_names")
            ),
            "entity_names": Argument(lambda: list("abcdef"), NAMES),
            "name": Argument(
                constant("graph"), wrong.without(wrong.OBJECTS, "string", "empty_string", "surrogate") | wrong.NUMBERS
            ),
        },
        impls=False,
    ),
    "KnowledgeGraph.load": Function(
        kgfast.KnowledgeGraph.load,
        {
            "source": Argument(file_of_triples, PATHS, ("no such file",)),
            "cache": FLAG,
            "iris": Argument(constant("short"), wrong.word("short")),
            "header": Argument(constant(None), wrong.without(wrong.OBJECTS, "none") | wrong.NUMBERS),
            "columns": Argument(constant(None), wrong.without(wrong.OBJECTS | wrong.NUMBERS, "none")),
        },
        impls=False,
    ),
    "KnowledgeGraph.entity_id": Function(
        method(graph, "entity_id"),
        {"name": Argument(constant("0"), wrong.OBJECTS | wrong.NUMBERS | wrong.TENSORS, ("entity",))},
        impls=False,
    ),
    "KnowledgeGraph.relation_id": Function(
        method(graph, "relation_id"),
        {"name": Argument(constant("0"), wrong.OBJECTS | wrong.NUMBERS | wrong.TENSORS, ("relation",))},
        impls=False,
    ),
    "KnowledgeGraph.label": Function(
        method(graph, "label"), {"entity_id": Argument(constant(0), wrong.integer(0, ENTITIES))}, impls=False
    ),
    "KnowledgeGraph.known": Function(
        lambda splits: graph().known(splits),
        {"splits": Argument(constant("train"), wrong.word("train"), ("split",))},
        impls=False,
    ),
    "KnowledgeGraph.save": Function(
        saved,
        {
            "folder": Argument(
                constant("own"),
                wrong.without(PATHS, "string", "missing", "list") | {"file": lambda: __file__},
                ("exists",),
            ),
            "suffix": Argument(constant(".txt"), wrong.word(".tsv") | {"nt": lambda: ".nt"}),
        },
        impls=False,
    ),
    "KGEModel": Function(nn.KGEModel, MODEL_OPTIONS | {"score": SCORE}, impls=False),
    "KGEModel.from_tables": Function(
        nn.KGEModel.from_tables,
        {name: TABLES[name] for name in ("entities", "relations")} | {"score": SCORE, "reciprocal": FLAG, "copy": FLAG},
        impls=False,
    ),
    "TransE": Function(
        nn.TransE,
        MODEL_OPTIONS
        | {
            "p": Argument(
                constant(1),
                wrong.without(wrong.integer(1, 3), "whole_float", "numpy_float", "tensor_true", "numpy_true", "true"),
            )
        },
        impls=False,
    ),
    "RotatE": Function(nn.RotatE, MODEL_OPTIONS, impls=False),
    "KGEModel.score_triples": Function(method(model, "score_triples"), {"triples": TRIPLES}, impls=False),
    "KGEModel.score_candidates": Function(method(model, "score_candidates"), ASKED, impls=False),
    "KGEModel.rank": Function(
        method(model, "rank"),
        ASKED | {"known": KNOWN, "ties": Argument(constant("realistic"), wrong.word("realistic"))},
        impls=False,
    ),
    "KGEModel.topk": Function(
        method(model, "topk"),
        ASKED | {"k": Argument(constant(2), wrong.integer(1, 2**31)), "exclude": KNOWN},
        impls=False,
    ),
    "KGEModel.rank.reciprocal": Function(
        method(functools.partial(model, reciprocal=True), "rank"), ASKED | {"known": KNOWN}, impls=False
    ),
    "RowSGD": Function(optim.RowSGD, {"params": PARAMS, "lr": LR}, impls=False),
    "RowAdagrad": Function(
        optim.RowAdagrad, {"params": PARAMS, "lr": LR, "full": FLAG, "eps": EPS, "initial": POSITIVE}, impls=False
    ),
    "RowAdam": Function(optim.RowAdam, {"params": PARAMS, "lr": LR, "betas": BETAS, "eps": EPS}, impls=False),
    "RowOptimizer": Function(
        optim.RowOptimizer,
        {"params": PARAMS, "rule": Argument(constant("sgd"), wrong.word("sgd")), "lr": LR},
        impls=False,
    ),
    "NegativeSamplingStep": Function(step_of(steps.NegativeSamplingStep), SAMPLED_OPTIONS),
    "OneVsAllStep": Function(
        step_of(steps.OneVsAllStep),
        STEP_OPTIONS
        | {
            "objective": OBJECTIVE,
            "label_smoothing": SMOOTHING,
            "answers": KNOWN,
            "relation_weight": POSITIVE,
            "bf16": FLAG,
        },
    ),
    "HostTablesStep": Function(
        step_of(steps.HostTablesStep),
        SAMPLED_OPTIONS | {"device": Argument(constant("cpu"), wrong.OBJECTS | {"minus": lambda: -1})},
    ),
    "CapturedStep": Function(
        steps.CapturedStep,
        {"step": Argument(lambda: None, wrong.instance() | {"on_cpu": lambda: step_of(steps.OneVsAllStep)()})},
        impls=False,
    ),
    "NegativeSamplingStep.__call__": Function(
        run_step, {"triples": TRIPLES, "index": INDEX, "weights": WEIGHTS}, impls=False
    ),
    "OneVsAllStep.__call__": Function(
        run_step_over_all, {"triples": TRIPLES, "index": INDEX, "weights": WEIGHTS}, impls=False
    ),
    "HostTablesStep.__call__": Function(
        run_host_step, {"triples": TRIPLES, "index": INDEX, "weights": WEIGHTS}, impls=False
    ),
    "set_cpu_level": Function(
        kgfast.set_cpu_level,
        {"name": Argument(kgfast.cpu_level, wrong.word("baseline"), ("level", "cpu_levels"))},
        impls=False,
    ),
}
STEPS = {"NegativeSamplingStep", "OneVsAllStep", "HostTablesStep"}  # impl="reference" has none
NO_RIGHT_CALL = {"CapturedStep"}  # there is no right call of it without a GPU
