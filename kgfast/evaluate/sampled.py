"""Ranks among sampled candidates: another metric than ranks among all entities, and named so wherever it is printed."""

import torch

from kgfast import functional
from kgfast.errors import ConfigError
from kgfast.reference.ranking import TIE_SHARES
from kgfast.registry import Side


class SampledRanks:
    """Ranks right answers among K entities, the same for every query, drawn uniformly without repetition by `seed`.

        rank[b] = 1 + #{k : s_k > s_target} + share * #{k : s_k = s_target}

    over the k that are no known answer of query b. The target is one more candidate, scored beside the others.
    """

    def __init__(self, model, candidates, seed=0):
        if candidates > model.num_entities:
            raise ConfigError(f"candidates={candidates}: the graph has {model.num_entities} entities")
        self.model = model
        order = torch.randperm(model.num_entities, generator=torch.Generator().manual_seed(seed))
        self.candidates = order[:candidates].sort().values.to(model.entities.device)
        self.place = torch.full((model.num_entities,), -1, device=self.candidates.device)
        self.place[self.candidates] = torch.arange(candidates, device=self.candidates.device)

    def rank(self, triples, side, known, ties="realistic"):
        """Filtered ranks, float64 [B]."""
        asked, asked_side = self.model.with_inverses(triples, Side.of(side, "side"))
        targets = triples[:, 2 if side == "tail" else 0]
        ids = torch.cat([self.candidates.expand(len(triples), -1), targets[:, None]], 1)
        scores = functional.score_candidates(
            self.model.entities, self.model.relations, asked, ids, score=self.model.score, side=asked_side.word
        )
        own, scores = scores[:, -1:], scores[:, :-1]
        rows, columns = self.known_among_candidates(triples, side, known)
        scores[rows, columns] = -torch.inf
        aside = self.place[targets]
        scores[aside >= 0, aside[aside >= 0]] = -torch.inf
        better, equal = (~(scores <= own)).sum(1), (scores == own).sum(1)  # NaN counts as better, as in `kgfast.rank`
        return 1.0 + better.double() + TIE_SHARES[ties] * equal.double()

    def competing(self, triples, side, known):
        """How many entities compete for each query, int64 [B]: the right answer, and the candidates that are no known
        answer."""
        rows, _ = self.known_among_candidates(triples, side, known)
        return len(self.candidates) + 1 - torch.bincount(rows, minlength=len(triples))

    def known_among_candidates(self, triples, side, known):
        """(rows, columns) of the scores that belong to known answers."""
        starts, ends = known.lookup(triples, side)
        counts = ends - starts
        rows = torch.repeat_interleave(torch.arange(len(triples), device=triples.device), counts)
        first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
        columns = self.place[known.ids(side)[first + torch.arange(len(rows), device=triples.device)]]
        return rows[columns >= 0], columns[columns >= 0]
