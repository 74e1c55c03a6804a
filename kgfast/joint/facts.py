"""Facts asked of the language model: held-out triples in words, whose tails it ranks among answers of the relation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.fact_scores import FactScorer
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.task import Told
from kgfast.joint.tasks import task_class
from kgfast.joint.text.forms import Forms, Said
from kgfast.joint.text.language import LanguageTask
from kgfast.joint.unseen import EdgeResults
from kgfast.run.seeds import generator

OTHERS = 40  # answers of the relation that compete with the right one, at most
SPLITS = ("test", "valid")
FEWEST = 5  # answers of a relation that is asked for; of fewer every guess is often right
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

    def random_mrr(self) -> float:
        """What guessing is expected to reach: the mean of 1 / rank over all ranks."""
        sizes = self.offsets.diff()
        harmonic = torch.cat([torch.zeros(1), 1 / torch.arange(1, int(sizes.max()) + 1)]).double().cumsum(0)
        return float((harmonic[sizes] / sizes).mean())


def language_task(model) -> LanguageTask | None:
    """The task whose language model is asked; None where there is none."""
    return next((task for task in model.tasks.values() if isinstance(task, LanguageTask)), None)


class FactResults(Told):
    """How results of `evaluate_facts` are told."""

    name = "facts"
    headline = "mrr"
    columns = {"mrr": "MRR", "mrr_table": "table", "mrr_mixed": "mixed", "mrr_link": "link",
               "mrr_hidden_subject": "no subject", "mrr_frequency": "frequency", "facts": "facts"}  # fmt: skip

    @classmethod
    def beside_of(cls, metrics: Mapping[str, Any]) -> Mapping[str, float]:
        return {"frequency": metrics["mrr_frequency"], "chance": metrics["mrr_random"]}

    @classmethod
    def columns_of(cls, metrics: Mapping[str, Any]) -> Mapping[str, str]:
        return {name: heading for name, heading in cls.columns.items() if name in metrics}


def told_by(name: str) -> type[Told]:
    """How the metrics of a task, or of what is measured beside tasks, are told."""
    beside: dict[str, type[Told]] = {one.name: one for one in (FactResults, EdgeResults)}
    return beside[name] if name in beside else task_class(name)


@torch.no_grad()
def evaluate_facts(
    model, split: str, *, most: int | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """How well the language model knows the facts of a split: mean reciprocal rank of the tail

        mrr                  by the tokens of the relation's sentence: a causal model ranks by the log-likelihood of the
                             answer and what stands behind it, a masked one by the mean log-likelihood of the answer's
                             tokens, all hidden
        mrr_table            with the task mention: by the state that asks for the answer, against the entities' rows
        mrr_mixed            with the task mention: by the mean of both chances, each among the answers that compete
        mrr_link             with the task link: by the score of the triple, without any text
        mrr_bare             as mrr, of head, relation and tail without more
        mrr_hidden_subject   as mrr, of the sentence about "this": what is known without knowing of whom
        mrr_frequency        by how often train has the answer
        mrr_random           by chance

    ConfigError without a language model, DataError without a fact (see `Facts.of`, also for `most`).
    """
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    task, facts = language_task(model), Facts.of(model.graph, split, most)
    if task is None:
        raise ConfigError(f"facts are asked of a language model (mlm, clm), and this run has: {', '.join(model.tasks)}")
    if not len(facts):
        raise DataError(f"{model.graph.name} has no fact in {split} of a relation with {FEWEST} answers or more")
    forms, scorer = Forms(model.graph), FactScorer(model, task)
    mention = model.tasks["mention"] if "mention" in model.tasks else None
    asked = facts.triples[facts.rows]
    heads, relations, tails = asked[:, 0], asked[:, 1], facts.answers
    hidden, place = torch.unique(torch.stack([relations, tails], 1), dim=0, return_inverse=True)
    count = Count((2 if mention is None else 3) * len(asked) + len(hidden), progress)
    with evaluating(model):
        by_tokens = count.over(scorer.by_tokens, forms.say_all(heads, relations, tails), heads, tails)
        found = {"mrr": facts.mrr(by_tokens)}
        if mention is not None:
            ask = partial(scorer.by_table, mention)
            by_table = count.over(ask, forms.say_all(heads, relations, tails), heads, tails)
            mixed = torch.logaddexp(facts.normed(by_tokens), facts.normed(by_table))
            found |= {"mrr_table": facts.mrr(by_table), "mrr_mixed": facts.mrr(mixed)}
        if "link" in model.tasks:
            found["mrr_link"] = facts.mrr(scorer.by_link(torch.stack([heads, relations, tails], 1)))
        bare = forms.say_all(heads, relations, tails, bare=True)
        found["mrr_bare"] = facts.mrr(count.over(scorer.by_tokens, bare, heads, tails))
        this = forms.say_all(None, hidden[:, 0], hidden[:, 1])
        found["mrr_hidden_subject"] = facts.mrr(count.over(scorer.by_tokens, this, None, hidden[:, 1])[place])
    return {
        **found,
        "mrr_frequency": facts.mrr(facts.frequency),
        "mrr_random": facts.random_mrr(),
        "facts": len(facts),
    }


@dataclass
class Count:
    """Scores batch by batch, counted for a progress bar."""

    total: int
    progress: Callable[[int, int], None] | None
    done: int = 0

    def over(self, ask: Callable[..., Tensor], said: Sequence[Said], heads: Tensor | None, tails: Tensor) -> Tensor:
        parts = []
        for start in range(0, len(said), BATCH):
            chosen = slice(start, start + BATCH)
            parts.append(ask(said[chosen], None if heads is None else heads[chosen], tails[chosen]))
            self.done += len(parts[-1])
            if self.progress is not None:
                self.progress(self.done, self.total)
        return torch.cat(parts)
