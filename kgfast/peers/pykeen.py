"""PyKEEN: its datasets and triples factories as graphs, its models as ours. fused_model.py is the other way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.core import optional
from kgfast.core.codes import refuse
from kgfast.errors import DataError, KgfastError
from kgfast.nn import KGEModel
from kgfast.peers import PYKEEN, is_of
from kgfast.peers.tables import as_halves, rotate_l2

if TYPE_CHECKING:
    from pykeen.datasets import Dataset
    from pykeen.models import ERModel, Model
    from pykeen.nn import modules
    from pykeen.triples import CoreTriplesFactory

Tables = tuple[str, Tensor, Tensor]  # score, entities, relations


# ---- graphs ---------------------------------------------------------------------------------------------------


def graph_arguments(source: Any) -> dict[str, Any]:
    """The arguments of `KnowledgeGraph.from_arrays` for a dataset, its name behind "pykeen:", or a triples factory,
    which is train alone. Ids are PyKEEN's."""
    if isinstance(source, str):
        return {**graph_arguments(named_dataset(source.removeprefix(PYKEEN))), "name": source}
    from pykeen.datasets import Dataset
    from pykeen.triples import CoreTriplesFactory

    if not isinstance(source, (Dataset, CoreTriplesFactory)):
        raise DataError(f"source is a {type(source).__name__} of PyKEEN; a Dataset or a triples factory can be read")
    train = source.training if isinstance(source, Dataset) else source
    splits = {"train": train.mapped_triples}
    if isinstance(source, Dataset):
        parts = {"valid": source.validation, "test": source.testing}
        splits |= {split: one.mapped_triples for split, one in parts.items() if one is not None}
    counts = {"num_entities": train.num_entities, "num_relations": train.real_num_relations}
    return {**splits, **counts, **names_of(train), "name": f"{PYKEEN}{type(source).__name__}"}


def named_dataset(name: str) -> Dataset:
    """A dataset of PyKEEN's by name, from its package or as PyKEEN downloads it."""
    optional.needs("pykeen", f"source={PYKEEN}{name}", "pykeen")
    from pykeen.datasets import dataset_resolver

    known = {kind.__name__ for kind in dataset_resolver.lookup_dict.values()}
    if dataset_resolver.normalize(name) not in dataset_resolver.lookup_dict:
        raise DataError(str(refuse("source", f"{PYKEEN}{name}", (f"{PYKEEN}{one}" for one in sorted(known)))))
    try:
        found = dataset_resolver.make(name)
        found.training  # noqa: B018  which is read, or fetched, now
        return found
    except Exception as error:  # of whatever kind: files, archives and the network
        raise DataError(f"{PYKEEN}{name}: PyKEEN can't load it: {type(error).__name__}: {error}") from error


def names_of(factory: CoreTriplesFactory) -> dict[str, list[str]]:
    """Names by id, where a factory has labels."""
    from pykeen.triples import TriplesFactory

    if not isinstance(factory, TriplesFactory):
        return {}
    labels = {"entity": factory.entity_id_to_label, "relation": factory.relation_id_to_label}
    return {f"{kind}_names": [str(found[id]) for id in range(len(found))] for kind, found in labels.items()}


# ---- models ---------------------------------------------------------------------------------------------------


def from_pykeen(model: Model) -> KGEModel:
    """A model of PyKEEN as a kgfast.nn.KGEModel with the same scores.

    TransE, DistMult, ComplEx, RESCAL and CP are those of kgfast. RotatE takes the L2 norm of all complex numbers
    together: it becomes the score "rotate_l2". SimplE multiplies an entity's first row with the other's first, which is
    DistMult of twice the width, and becomes that. Any other is refused by name. A model with inverse triples becomes a
    reciprocal one, which ranks heads as PyKEEN does. Scores are those before predict_with_sigmoid.

    Args:
        model: an ERModel of PyKEEN, trained or not. Its tables are copied; ids are PyKEEN's, so the graph is best
            loaded from the triples factory: `KnowledgeGraph.load(factory)`.
    """
    found = unclamped(as_er_model(model))
    kind = type(found).__name__
    if kind not in CONVERTERS or type(found).__module__ != "pykeen.nn.modules":
        known = ", ".join(one.removesuffix("Interaction") for one in CONVERTERS)
        raise KgfastError(f"model: kgfast has no score of {kind} ({type(model).__name__}); there are those of {known}")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            entities, relations = (
                [representation(None) for representation in getattr(model, f"{part}_representations")]
                for part in ("entity", "relation")
            )
    finally:
        model.train(training)
    score, table, relation_table = CONVERTERS[kind](found, entities, relations)
    if model.use_inverse_triples:  # theirs alternate, ours come behind the others
        relation_table = torch.cat([relation_table[0::2], relation_table[1::2]])
    return KGEModel.from_tables(table, relation_table, score=score, reciprocal=bool(model.use_inverse_triples))


def as_er_model(model: object) -> ERModel:
    """The model; KgfastError where it is none that has a row for each entity."""
    if is_of("pykeen", model):
        from pykeen.models import ERModel, InductiveERModel

        if isinstance(model, ERModel) and not isinstance(model, InductiveERModel):
            return model
    raise KgfastError(f"model: {type(model).__name__} is no model of PyKEEN with a row for each entity (ERModel)")


def unclamped(model: ERModel) -> Any:
    """The interaction; KgfastError where its scores are cut off."""
    found: Any = model.interaction
    if type(found).__name__ != "ClampedInteraction":
        return found
    if found.clamp_score is not None:
        raise KgfastError(f"model: {type(model).__name__} clamps scores to {found.clamp_score}, kgfast doesn't")
    return found.base


def transe(interaction: modules.TransEInteraction, entities: list[Tensor], relations: list[Tensor]) -> Tables:
    if interaction.power_norm or interaction.p not in (1, 2):
        setting = "power_norm=True" if interaction.power_norm else f"scoring_fct_norm={interaction.p}"
        raise KgfastError(f"model: TransE with {setting}; kgfast has the norms 1 and 2")
    return f"transe_l{int(interaction.p)}", entities[0], relations[0]


def complex_(interaction: modules.ComplExInteraction, entities: list[Tensor], relations: list[Tensor]) -> Tables:
    return "complex", as_halves(complex_numbers(entities[0])), as_halves(complex_numbers(relations[0]))


def rotate(interaction: modules.RotatEInteraction, entities: list[Tensor], relations: list[Tensor]) -> Tables:
    rotations = complex_numbers(relations[0])
    wrong = ((rotations.abs() - 1).abs() > 1e-4).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        length = float(rotations[row, column].abs())
        raise KgfastError(f"model: relation {row} is no rotation: its number {column} has modulus {length:.6g}, not 1")
    return rotate_l2(), as_halves(complex_numbers(entities[0])), rotations.angle()


def simple(interaction: modules.SimplEInteraction, entities: list[Tensor], relations: list[Tensor]) -> Tables:
    return "distmult", torch.cat(entities, -1), torch.cat(relations, -1) / 2


def cp(interaction: modules.CPInteraction, entities: list[Tensor], relations: list[Tensor]) -> Tables:
    return "cp", torch.cat([one.flatten(1) for one in entities], 1), relations[0].flatten(1)


def complex_numbers(table: Tensor) -> Tensor:
    """As PyKEEN takes them: complex, or reals that alternate real and imaginary."""
    return table if table.is_complex() else torch.view_as_complex(table.view(*table.shape[:-1], -1, 2))


CONVERTERS: dict[str, Callable[[Any, list[Tensor], list[Tensor]], Tables]] = {
    "TransEInteraction": transe,
    "DistMultInteraction": lambda _, entities, relations: ("distmult", entities[0], relations[0]),
    "ComplExInteraction": complex_,
    "RotatEInteraction": rotate,
    "SimplEInteraction": simple,
    "CPInteraction": cp,
    "RESCALInteraction": lambda _, entities, relations: ("rescal", entities[0], relations[0].flatten(1)),
}
