"""Facts asked of the language model: held-out triples in words, whose tails it ranks among answers of the relation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.fact_scores import FactScorer
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.text.forms import Forms, Said
from kgfast.joint.text.language import LanguageTask
from kgfast.run.seeds import generator

OTHERS = 40  # answers of the relation that compete with the right one, at most
FEWEST = 5  # answers of a relation that is asked for; of fewer every guess is often right
HIDDEN = "this"  # stands for the subject where that is hidden
BATCH = 1024  # texts that are read at once


@dataclass(frozen=True)
class Facts:
    """triples int64 [n, 3]; the answers that compete as CSR: offsets int64 [n + 1], answers int64 [A], of each triple
    its own tail first; frequency int64 [A], how often train has it as the tail of this relation."""

    triples: Tensor
    offsets: Tensor
    answers: Tensor
    frequency: Tensor

    @classmethod
    def of(cls, graph: KnowledgeGraph, split: str, most: int | None = None) -> Facts:
        """The facts of a split, `most` at most: of relations with 5 answers in train or more. Answers are those of the
        relation in train, but for such as are known to be right too, 40 drawn ones where there are more: the same for
        every model."""
        tails: dict[int, Counter[int]] = {}
        for relation, tail in graph.train[:, 1:].tolist():
            tails.setdefault(relation, Counter())[tail] += 1
        known: dict[tuple[int, int], set[int]] = {}
        for head, relation, tail in torch.cat([graph.train, graph.valid, graph.test]).tolist():
            known.setdefault((head, relation), set()).add(tail)
        draws = generator(0, f"facts/{split}")
        rows = getattr(graph, split)
        rows = rows[[len(tails.get(relation, ())) >= FEWEST for relation in rows[:, 1].tolist()]]
        if most is not None and len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=draws)[:most].sort().values]
        counts, answers, frequency = [0], [], []
        for head, relation, tail in rows.tolist():
            others = sorted(set(tails[relation]) - known[head, relation])
            if len(others) > OTHERS:
                others = [others[place] for place in torch.randperm(len(others), generator=draws)[:OTHERS].tolist()]
            answers += [tail, *others]
            frequency += [tails[relation][answer] for answer in (tail, *others)]
            counts.append(len(others) + 1)
        return cls(rows, torch.tensor(counts).cumsum(0), torch.tensor(answers), torch.tensor(frequency))

    def __len__(self) -> int:
        return len(self.triples)

    @property
    def rows(self) -> Tensor:
        """The triple of each answer: int64 [A]."""
        return torch.repeat_interleave(torch.arange(len(self)), self.offsets.diff())

    def normed(self, scores: Tensor) -> Tensor:
        """Log-likelihoods [A] of answers, normed to chances among the answers of each triple; logs again."""
        rows, scores = self.rows, scores.double()
        most = torch.full((len(self),), -torch.inf, dtype=torch.float64).scatter_reduce(0, rows, scores, "amax")[rows]
        sums = torch.zeros(len(self), dtype=torch.float64).index_add(0, rows, (scores - most).exp())
        return scores - most - sums.log()[rows]

    def mrr(self, scores: Tensor) -> float:
        """Mean reciprocal rank of the right answers by scores [A]; ties count half."""
        rows, scores = self.rows, scores.double().cpu()
        own = scores[self.offsets[:-1]][rows]
        nothing = torch.zeros(len(self), dtype=torch.float64)
        above = nothing.index_add(0, rows, (scores > own).double())
        equal = nothing.index_add(0, rows, (scores == own).double()) - 1
        return float((1 / (1 + above + equal / 2)).mean())


def language_task(model) -> LanguageTask:
    """The task whose language model is asked."""
    for task in model.tasks.values():
        if isinstance(task, LanguageTask):
            return task
    raise ConfigError(f"facts are asked of a language model, and this run has none (mlm, clm): {', '.join(model.tasks)}")


@torch.no_grad()
def evaluate_facts(
    model, split: str, *, most: int | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """How well the language model knows the facts of a split: mean reciprocal rank of the tail

        mrr                  of the relation's sentence
        mrr_bare             of head, relation, tail without more
        mrr_hidden_subject   of the sentence about "this": what is known without knowing of whom
        mrr_frequency        by how often train has the answer; mrr_random: by chance

    A causal model ranks by the log-likelihood of the answer and what stands behind it, a masked one by the mean
    log-likelihood of the answer's tokens, all hidden.
    """
    task, facts = language_task(model), Facts.of(model.graph, split, most)
    if not len(facts):
        raise DataError(f"{model.graph.name} has no fact in {split} of a relation with {FEWEST} answers or more")
    forms, score = Forms(model.graph), FactScorer(model, task)
    labels, answers = forms.labels, facts.answers.tolist()
    asked = list(zip(facts.triples[facts.rows].tolist(), answers, strict=True))
    heads = facts.triples[facts.rows, 0]
    hidden, place = torch.unique(torch.stack([facts.triples[facts.rows, 1], facts.answers], 1), dim=0, return_inverse=True)
    mention = model.tasks["mention"] if "mention" in model.tasks else None
    total, done = (2 if mention is None else 3) * len(asked) + len(hidden), 0

    def scores(said: Sequence[Said], heads: Tensor | None, tails: Tensor, *more) -> Tensor:
        nonlocal done
        parts = []
        for start in range(0, len(said), BATCH):
            chosen = slice(start, start + BATCH)
            ask = score.by_table if more else score
            parts.append(ask(said[chosen], None if heads is None else heads[chosen], tails[chosen], *more))
            done += len(parts[-1])
            if progress is not None:
                progress(done, total)
        return torch.cat(parts)

    with evaluating(model):
        said = [forms.say(labels[head], relation, labels[answer]) for (head, relation, _), answer in asked]
        bare = [forms.say(labels[head], relation, labels[answer], bare=True) for (head, relation, _), answer in asked]
        this = [forms.say(HIDDEN, relation, labels[answer]) for relation, answer in hidden.tolist()]
        by_tokens = scores(said, heads, facts.answers)
        if mention is not None:
            by_table = scores(said, heads, facts.answers, mention)
            extra = {"mrr_table": facts.mrr(by_table), "mrr_mixed": facts.mrr(torch.logaddexp(facts.normed(by_tokens), facts.normed(by_table)))}
        else:
            extra = {}
        found = {
            "mrr": facts.mrr(by_tokens), **extra,
            "mrr_bare": facts.mrr(scores(bare, heads, facts.answers)),
            "mrr_hidden_subject": facts.mrr(scores(this, None, hidden[:, 1])[place]),
        }
    return {
        **found,
        "mrr_frequency": facts.mrr(facts.frequency),
        "mrr_random": random_mrr(facts),
        "facts": len(facts),
    }


def random_mrr(facts: Facts) -> float:
    """What guessing is expected to reach: the mean of 1 / rank over all ranks."""
    sizes = facts.offsets.diff()
    harmonic = torch.cat([torch.zeros(1), (1 / torch.arange(1, int(sizes.max()) + 1)).cumsum(0)]).double()
    return float((harmonic[sizes] / sizes).mean())
