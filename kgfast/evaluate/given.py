"""OGB's own evaluation: ranks among the candidates that OGB gives for each triple. It is another metric than ranks
among all entities, and named "ogb" wherever it is printed."""

import torch

from kgfast import functional
from kgfast.core import checks
from kgfast.data.layouts import layout_of
from kgfast.data.layouts.ogb import OGB
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate.measures import HITS, both_sides, check_hits, intervals, prefixed
from kgfast.evaluate.metrics import check_finite, check_model_fits, subset
from kgfast.registry import Side

OGB_PREFIX = "ogb_"  # before the name of each metric that ranks among given candidates


def evaluate_ogb(model, graph, split="test", *, batch_size=512, triples=None, seed=0, progress=None, hits=HITS):
    """Rank the head and the tail of every triple among the candidates that OGB gives for it, as OGB's Evaluator does.

        rank = 1 + (#{k : s_k > s} + #{k : s_k >= s}) / 2,    s the score of the triple, s_k that with candidate k

    Known answers are not left out: OGB drew none. The graph is one of OGB's folder, ogbl-wikikg2 or ogbl-biokg, and the
    split valid or test. `triples`, `seed`, `progress` and `hits` are as in `evaluate`.

    Returns what `evaluate` does, each metric with "ogb_" before its name, and "given_candidates" {side: their number}.
    Memory: what OGB's file of the split holds, and a batch's scores [batch_size, K + 1] with their ids.
    """
    check_model_fits(model, graph)
    if split not in ("valid", "test"):
        raise ConfigError(f"split={split!r}: OGB gives candidates for valid and test")
    for name, value in (("batch_size", batch_size), ("triples", 1 if triples is None else triples)):
        checks.integer(name, value, 1)
    checks.integer("seed", seed, 0, 2**63)
    hits = check_hits(hits)
    folder = getattr(graph, "laid_out", None)
    layout = None if folder is None else layout_of(folder)
    if not isinstance(layout, OGB):
        told = "OGB's folders of ogbl-wikikg2 and ogbl-biokg have them, as they are"
        raise DataError(f"graph {graph.name!r} has no given candidates: {told}")
    given = GivenRanks(model, graph, layout.candidates(split))
    chosen = torch.arange(len(given.triples))
    if triples is not None:
        chosen = subset(len(chosen), triples, seed)
    ranks = given.ranks(chosen, batch_size, progress)
    expected = {side: torch.full_like(ranks[side], given.counts[side] / 2 + 1) for side in ranks}
    result = both_sides(ranks, expected, hits) | {"triples": len(chosen)}
    if len(chosen) < len(given.triples):
        result |= {"of": len(given.triples), "seed": seed, "interval": intervals(ranks, len(given.triples), hits)}
    return prefixed(result, OGB_PREFIX) | {"given_candidates": given.counts}


class GivenRanks:
    """Ranks of the triples of a split of OGB, whose ids become those of the graph."""

    def __init__(self, model, graph, candidates):
        self.model, self.given = model, candidates
        entities = ids_of(graph.entity_names, candidates.names, "entity")
        relations = ids_of(graph.relation_names, candidates.relation_names, "relation")
        self.entities = torch.from_numpy(entities)
        of_ogb = torch.from_numpy(candidates.triples)
        columns = self.entities[of_ogb[:, 0]], torch.from_numpy(relations)[of_ogb[:, 1]], self.entities[of_ogb[:, 2]]
        self.triples = torch.stack(columns, 1)
        self.counts = {side: getattr(candidates, side).shape[1] for side in ("head", "tail")}

    @torch.no_grad()
    def ranks(self, rows, batch_size, progress=None):
        """Ranks {"tail": [M], "head": [M]}, float64 on the CPU, of some rows of the split."""
        check_finite(self.model)
        found = {side: torch.empty(len(rows), dtype=torch.float64) for side in ("tail", "head")}
        training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                for side in found:
                    found[side][start : start + len(batch)] = self.rank(batch, side).cpu()
                if progress is not None:
                    progress(2 * (start + len(batch)), 2 * len(rows))
        finally:
            self.model.train(training)
        return found

    def rank(self, rows, side):
        """Ranks of one batch, float64 [B]."""
        model, triples = self.model, self.triples[rows]
        candidates = self.entities[torch.from_numpy(self.given.of_rows(side, rows.numpy()))]
        ids = torch.cat([triples[:, 2 if side == "tail" else 0, None], candidates], 1).to(model.entities.device)
        asked, asked_side = model.with_inverses(triples.to(ids.device), Side.of(side, "side"))
        scores = functional.score_candidates(
            model.entities, model.relations, asked, ids, score=model.score, side=asked_side.word
        )
        own, others = scores[:, :1], scores[:, 1:]
        if not bool(torch.isfinite(scores).all()):
            row = int((~torch.isfinite(scores)).any(1).nonzero()[0])
            raise KgfastError(f"a score of triple {triples[row].tolist()} isn't finite: training diverged")
        return 1.0 + 0.5 * ((others > own).sum(1) + (others >= own).sum(1)).double()


def ids_of(names, wanted, kind):
    """The graph's id of each of OGB's names."""
    ids = names.find_all(wanted)
    if (ids < 0).any():
        name = wanted[int((ids < 0).argmax())].as_py()
        raise DataError(f"the graph has no {kind} {name!r}, which OGB's folder names")
    return ids
