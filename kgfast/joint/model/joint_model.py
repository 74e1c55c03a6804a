"""JointModel: the Transformer, the rows of entities and relations, and the tasks' own heads; and one step's terms."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kgfast.functional.multitask import LossTerm, Term
from kgfast.joint.model.encoders import EntityEncoder
from kgfast.joint.model.kept_texts import KeptTexts
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.relations import RelationTexts
from kgfast.joint.model.sharing import ENTITIES, RELATIONS, Sharing
from kgfast.joint.task import Task


class JointModel(nn.Module):
    """What all tasks share, and the tasks.

    backbone: Sharing, None where no task reads texts; entities: EntityEncoder; relations [R or 2R, W]: with
    relation_texts they are made of a table and texts whenever they are asked for; score: name; tasks: ModuleDict by
    name; tokenizer, texts, graph: what the model was made for. `bf16`: the Transformer computes in bfloat16 (autocast)
    in training; its states leave it as float32, as do all rows and losses.
    """

    def __init__(
        self,
        graph,
        *,
        score: str,
        entities: EntityEncoder,
        relations: nn.Parameter,
        tasks: Mapping[str, Task],
        relation_texts: RelationTexts | None = None,
        backbone: Sharing | None = None,
        texts=None,
        bf16: bool = False,
    ):
        super().__init__()
        self.graph, self.score, self.texts, self.bf16 = graph, score, texts, bf16
        self.tokenizer = None if texts is None else texts.tokenizer
        self.entities, self.relations = entities, relations
        if relation_texts is not None:
            parametrize.register_parametrization(self, "relations", relation_texts)
        self.backbone = backbone
        self.has_read = False  # whether the memory holds every text
        self.tasks: Mapping[str, Task] = nn.ModuleDict(tasks)  # type: ignore[assignment]
        for task in tasks.values():
            if backbone is not None and (inputs := task.entity_inputs(self)) is not None:
                for one in backbone.backbones:
                    one.entity_inputs = inputs

    @property
    def device(self) -> torch.device:
        return self.relation_table.device

    @property
    def relation_texts(self) -> RelationTexts | None:
        """What relations' rows take from their texts; None where they are those of a table."""
        return None if self.made_relations is None else self.made_relations[0]

    @property
    def relation_table(self) -> nn.Parameter:
        """The learned rows of relations."""
        return self.relations if self.made_relations is None else self.made_relations.original

    @property
    def made_relations(self) -> Any:
        """torch's parametrization of the relations; None where they are a parameter."""
        return self.parametrizations["relations"] if parametrize.is_parametrized(self, "relations") else None  # type: ignore[index]

    def both_relations(self) -> tuple[Tensor, Tensor | None]:
        """(rows, rows by text alone) of all relations; a table has no texts."""
        texts = self.relation_texts
        return (self.relations, None) if texts is None else texts.both(self.relation_table)

    @property
    def readers(self) -> list[KeptTexts]:
        """The rows that texts are part of."""
        both: list[KeptTexts | None] = [self.entities if self.entities.reads else None, self.relation_texts]
        return [rows for rows in both if rows is not None]

    @property
    def dim(self) -> int:
        return self.entities.dim

    @property
    def frozen(self) -> bool:
        """Whether there is a Transformer, and no weight of it learns: a text has the same states in every step."""
        return self.backbone is not None and all(one.frozen for one in self.backbone.backbones)

    def encode_all(self, requests: Mapping[str, Packed]) -> dict[str, Encoded]:
        """Hidden states of all texts of a step, in one pass where the sharing allows it."""
        if not requests:
            return {}
        assert self.backbone is not None  # who reads texts has a Transformer
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16) if self.bf16 else nullcontext():
            encoded = self.backbone.encode_all({name: packed.to(self.device) for name, packed in requests.items()})
        return {name: Encoded(one.hidden.float(), one.offsets, one.pooled.float()) for name, one in encoded.items()}

    def forward(
        self, batches: Mapping[str, Any], step: int
    ) -> tuple[list[Term | LossTerm], list[str], dict[str, list[Tensor]]]:
        """(terms, the task of each term, representation) of the batches of a step's tasks.

        representation: for each task the tensors it shares with others: the states of its texts, rows of entities and
        relations. Call `finish_step` behind the optimizer step.
        """
        requests = {}
        for name, batch in batches.items():
            packed = self.tasks[name].requests(batch)
            if packed is not None:
                requests[name] = packed
        ids = self.texts_to_read(batches, step)
        for rows in self.readers:
            if rows.reader in ids:
                requests[rows.reader] = rows.requests(ids[rows.reader])
        encoded = self.encode_all(requests)
        for rows in self.readers:
            if rows.reader in ids:
                rows.receive(ids[rows.reader], encoded[rows.reader])
        terms: list[Term | LossTerm] = []
        owners: list[str] = []
        shared = {}
        tables: list[Tensor] = [self.relation_table, *([self.entities.table] if self.entities.kind != "text" else [])]
        tables += [encoded[name].pooled for name in ids]
        for name, batch in batches.items():
            states = encoded.get(name)
            made = self.tasks[name].terms(self, batch, states)
            terms += made
            owners += [name] * len(made)
            shared[name] = [*tables, *([states.hidden, states.pooled] if states is not None else [])]
        return terms, owners, shared

    def texts_to_read(self, batches: Mapping[str, Any], step: int) -> dict[str, Tensor]:
        """{reader: ids} of the entities and relations whose texts this step reads; none where no task of the step asks
        for entities, or where the Transformer is frozen, and would say what the memory holds."""
        if not self.readers or self.frozen:
            return {}
        wanted = [self.tasks[name].entities(batch) for name, batch in batches.items()]
        given = [ids.flatten() for ids in wanted if ids is not None]
        if not given:
            return {}
        ids = {ENTITIES: self.entities.choose(torch.cat(given), step)} if self.entities.reads else {}
        if self.relation_texts is not None:
            ids[RELATIONS] = self.relation_texts.choose(None, step)
        return ids

    def finish_step(self) -> None:
        """The step's texts go to the memory of texts."""
        for rows in self.readers:
            rows.release()

    def refresh(self) -> None:
        """Read all texts of entities and relations with the weights of now; once, where these are frozen."""
        if self.backbone is not None and not (self.frozen and self.has_read):
            for rows in self.readers:
                rows.read_all(self.backbone)
            self.has_read = True


@contextmanager
def evaluating(model: nn.Module):
    """The model in eval mode, and back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
