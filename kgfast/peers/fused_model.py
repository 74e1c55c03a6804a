"""A model of PyKEEN with kgfast's kernels in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast import functional
from kgfast.core import optional
from kgfast.nn import KGEModel

if TYPE_CHECKING:
    from pykeen.triples import CoreTriplesFactory

Model: Any = optional.needs("pykeen.models", "FusedModel", "pykeen").Model


class FusedModel(Model):
    """A model of PyKEEN whose scores, and their gradients, are made by kgfast's kernels.

    It goes into PyKEEN's pipeline, training loops, losses and evaluators: `pipeline(dataset="Nations",
    model=FusedModel, model_kwargs=dict(score="complex", dim=64))`. After training, `.kge` is the kgfast model, with
    PyKEEN's ids of relations.

    Args:
        triples_factory: of the graph.
        score: the name of a score, one of `kgfast.SCORES`.
        dim: reals in a row of an entity.
        init_scale: standard deviation of the entries; None: uniform Xavier.
        random_seed: of the tables too.
        options: loss, loss_kwargs and predict_with_sigmoid, as of PyKEEN's models.
    """

    def __init__(
        self,
        *,
        triples_factory: CoreTriplesFactory,
        score: str = "complex",
        dim: int = 200,
        init_scale: float | None = None,
        random_seed: int | None = None,
        **options: Any,
    ):
        super().__init__(triples_factory=triples_factory, random_seed=random_seed, **options)
        self.init_scale = init_scale
        self.kge = self.new_tables(score, dim)

    def new_tables(self, score: str, dim: int) -> KGEModel:
        seed = int(torch.randint(2**63 - 1, ()))  # after PyKEEN has set torch's own
        return KGEModel(self.num_entities, self.num_relations, dim, score=score, init_scale=self.init_scale, seed=seed)

    def _reset_parameters_(self) -> None:
        fresh = self.new_tables(self.kge.score, self.kge.dim)
        self.kge.load_state_dict(fresh.state_dict())

    def _get_entity_len(self, *, mode: Any) -> int:
        return self.num_entities

    def collect_regularization_term(self) -> Tensor:
        return self.kge.entities.new_zeros(())

    def score_hrt(self, hrt_batch: Tensor, *, mode: Any = None) -> Tensor:
        return self.kge.score_triples(hrt_batch)[:, None]

    def score_t(
        self, hr_batch: Tensor, *, slice_size: int | None = None, mode: Any = None, tails: Tensor | None = None
    ) -> Tensor:
        """Scores are not sliced: what is kept of them is the result."""
        return self.scores(torch.cat([hr_batch, torch.zeros_like(hr_batch[:, :1])], 1), "tail", tails)

    def score_h(
        self, rt_batch: Tensor, *, slice_size: int | None = None, mode: Any = None, heads: Tensor | None = None
    ) -> Tensor:
        return self.scores(torch.cat([torch.zeros_like(rt_batch[:, :1]), rt_batch], 1), "head", heads)

    def score_r(
        self, ht_batch: Tensor, *, slice_size: int | None = None, mode: Any = None, relations: Tensor | None = None
    ) -> Tensor:
        batch, device = len(ht_batch), ht_batch.device
        asked = torch.arange(self.num_relations, device=device) if relations is None else relations.to(device)
        asked = asked.expand(batch, -1) if asked.dim() == 1 else asked
        head, tail = (ht_batch[:, place, None].expand_as(asked) for place in (0, 1))
        return self.kge.score_triples(torch.stack([head, asked, tail], -1).view(-1, 3)).view(batch, -1)

    def scores(self, triples: Tensor, side: str, candidates: Tensor | None) -> Tensor:
        tables = self.kge.entities, self.kge.relations
        return functional.score_candidates(*tables, triples, candidates, score=self.kge.score, side=side)
