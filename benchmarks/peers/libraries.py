"""Libraries from PyPI, driven by their own classes: their models, samplers, loops and the optimizers they come with.

Each is held to the specification by its scores (or, where it evaluates, by its mean reciprocal rank) of equal tables.
Where a model normalizes rows before it scores them, the specification gets normalized rows.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from benchmarks.peers.contestants import FEW
from benchmarks.peers.work import MARGIN, Job, reference_ranks, same_ranks, same_scores
from kgfast import reference

ROUND = 4  # batches in a call of a library that brings its own loop


def halves(table):
    return table.chunk(2, dim=1)


class Library:
    """`self.model` of the library, filled with the job's tables by `fill`."""

    norm: dict[str, int] = {}  # score -> p, where the model normalizes entity rows
    one_norm = False  # its RotatE is one L2 norm over all numbers, not a sum of moduli

    def __init__(self, **fields):
        self.job = job = Job(**fields)
        self.unit, self.units = "triples", len(job.test_triples) if job.kind == "evaluate" else job.batch
        self.build()

    def build(self) -> None:
        """Makes self.model and self.call."""
        raise NotImplementedError

    def scores(self, triples):
        """[B], by the library's model."""
        raise NotImplementedError

    @torch.no_grad()
    def check(self) -> None:
        job, triples = self.job, self.job.train[:32]
        entities, relations = job.tables()
        if job.score in self.norm:
            entities = normalize(entities, p=self.norm[job.score], dim=1)
        if job.score == "rotate" and self.one_norm:
            query = reference.make_queries(entities, relations, triples, job.score, "tail")
            expected = reference.SIMILARITIES["l2"](query, entities[triples[:, 2]])
        else:
            expected = reference.score_triples(entities, relations, triples, score=job.score)
        same_scores(job, expected, self.scores(triples))


class PyKEEN(Library):
    """Its training loops with Adagrad (row-wise it doesn't have), and its evaluator."""

    one_norm = True

    def build(self):
        from pykeen import models
        from pykeen.triples import CoreTriplesFactory

        job = self.job
        triples = job.train[: min(ROUND, len(job.train) // job.batch) * job.batch]
        if job.kind.startswith("train"):
            self.units = len(triples)
        self.factory = CoreTriplesFactory(triples, num_entities=job.entities, num_relations=job.relations)
        options = dict(triples_factory=self.factory, random_seed=job.seed)
        dim = job.dim // 2 if job.score in ("complex", "rotate") else job.dim
        if job.score.startswith("transe"):
            options["scoring_fct_norm"] = int(job.score[-1])
        names = {"distmult": "DistMult", "complex": "ComplEx", "rotate": "RotatE"}
        self.model = getattr(models, names.get(job.score, "TransE"))(embedding_dim=dim, **options)
        self.fill()
        if job.kind == "evaluate":
            self.call = lambda: self.evaluate(job.test_triples)
        else:
            self.call = self.loop()

    def fill(self):
        entities, relations = self.job.tables()
        if self.job.score in ("complex", "rotate"):  # its complex numbers are pairs
            entities = torch.stack(halves(entities), -1)
            rotated = self.job.score == "rotate"
            relations = torch.stack((relations.cos(), relations.sin()) if rotated else halves(relations), -1)
        model = self.model
        representations = model.entity_representations[0], model.relation_representations[0]
        for representation, table in zip(representations, (entities, relations), strict=True):
            weight = representation._embeddings.weight.data
            weight.copy_(table.reshape(weight.shape))

    def loop(self):
        from pykeen.training import LCWATrainingLoop, SLCWATrainingLoop

        job = self.job
        options = dict(model=self.model, triples_factory=self.factory, optimizer="Adagrad")
        if job.kind == "train/all":
            loop = LCWATrainingLoop(**options)
        else:
            loop = SLCWATrainingLoop(
                negative_sampler="basic", negative_sampler_kwargs=dict(num_negs_per_pos=job.negatives), **options
            )
        settings = dict(batch_size=job.batch, use_tqdm=False, num_workers=0, pin_memory=False)
        if job.kind == "train/all":  # it trains on distinct queries (head, relation)
            self.units, self.unit = len(torch.unique(self.factory.mapped_triples[:, :2], dim=0)), "queries"
        losses = []  # of all epochs so far: it counts them across calls, and does nothing when asked for as many again

        def epoch():
            wanted = len(losses) + 1
            losses[:] = loop.train(
                triples_factory=self.factory, num_epochs=wanted, continue_training=wanted > 1, **settings
            )
            if len(losses) != wanted:
                raise RuntimeError(f"PyKEEN trained {len(losses)} epochs, {wanted} were asked for")

        return epoch

    def evaluate(self, triples):
        from pykeen.evaluation import RankBasedEvaluator

        return RankBasedEvaluator(filtered=True).evaluate(
            self.model, triples, additional_filter_triples=[self.job.known_triples], use_tqdm=False, batch_size=256
        )

    def scores(self, triples):
        return self.model.score_hrt(triples)[:, 0]

    def check(self):
        super().check()
        if self.job.kind == "evaluate":
            triples = self.job.test_triples[:FEW]
            found = self.evaluate(triples).get_metric("both.realistic.inverse_harmonic_mean_rank")
            same_ranks(reference_ranks(self.job, triples), found)


class PyG(Library):
    """Its models and loader, with dense Adam as in its example. Its `loss` has one negative a triple; here N of its
    `random_sample` meet each triple, in the model's own objective."""

    norm = {"transe_l1": 1, "transe_l2": 2}

    def build(self):
        from torch_geometric.nn import kge

        job = self.job
        halved = job.score == "complex"
        sizes = (job.entities, job.relations, job.dim // 2 if halved else job.dim)
        make = {"transe_l1": kge.TransE, "transe_l2": kge.TransE, "distmult": kge.DistMult, "complex": kge.ComplEx}
        options = {"p_norm": float(job.score[-1])} if job.score.startswith("transe") else {}
        self.model = make[job.score](*sizes, **options)
        entities, relations = job.tables()
        if halved:
            for name, table in (("node_emb", entities), ("rel_emb", relations)):
                real, imaginary = halves(table)
                getattr(self.model, name).weight.data.copy_(real)
                getattr(self.model, name + "_im").weight.data.copy_(imaginary)
        else:
            self.model.node_emb.weight.data.copy_(entities)
            self.model.rel_emb.weight.data.copy_(relations)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.batches = self.forever(self.model.loader(*job.train.T, batch_size=job.batch, shuffle=True, drop_last=True))
        self.call = self.train

    @staticmethod
    def forever(loader):
        while True:
            yield from loader

    def train(self):
        triple = next(self.batches)
        self.optimizer.zero_grad()
        positive = self.model(*triple)
        repeated = [column.repeat(self.job.negatives) for column in triple]
        negative = self.model(*self.model.random_sample(*repeated))
        if self.job.score == "complex":
            scores, labels = torch.cat([positive, negative]), torch.ones(len(positive) + len(negative))
            labels[len(positive) :] = 0
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
        else:
            positive = positive.repeat(self.job.negatives)
            loss = torch.nn.functional.margin_ranking_loss(positive, negative, torch.ones_like(negative), margin=MARGIN)
        loss.backward()
        self.optimizer.step()

    def scores(self, triples):
        return self.model(*triples.T)


class TorchKGE(Library):
    """Its models, sampler and margin loss, with dense Adam as in its example."""

    norm = {"transe_l1": 2, "distmult": 2}

    def build(self):
        from torchkge import models, sampling
        from torchkge.utils import MarginLoss

        job = self.job
        entities, relations = job.tables()
        if job.score == "transe_l1":
            self.model = models.TransEModel(job.dim, job.entities, job.relations, dissimilarity_type="L1")
        elif job.score == "distmult":
            self.model = models.DistMultModel(job.dim, job.entities, job.relations)
        else:
            self.model = models.ComplExModel(job.dim // 2, job.entities, job.relations)
        if job.score == "complex":
            for name, table in (("ent", entities), ("rel", relations)):
                for part, half in zip(("re", "im"), halves(table), strict=True):
                    getattr(self.model, f"{part}_{name}_emb").weight.data.copy_(half)
        else:
            self.model.ent_emb.weight.data.copy_(entities)
            self.model.rel_emb.weight.data.copy_(relations)
        self.sampler = sampling.UniformNegativeSampler(Facts(job), n_neg=job.negatives)
        self.criterion = MarginLoss(MARGIN)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.batches, self.call = job.batches(), self.train

    def train(self):
        heads, relations, tails = (column.contiguous() for column in next(self.batches).unbind(1))
        negative_heads, negative_tails = self.sampler.corrupt_batch(heads, tails, relations)
        self.optimizer.zero_grad()
        positive, negative = self.model(heads, tails, relations, negative_heads, negative_tails)
        self.criterion(positive, negative).backward()
        self.optimizer.step()

    def scores(self, triples):
        heads, relations, tails = triples.unbind(1)
        return self.model.scoring_function(heads, tails, relations)


class Facts:
    """The two numbers that TorchKGE's uniform sampler asks a graph for."""

    def __init__(self, job):
        self.n_ent, self.n_facts = job.entities, len(job.train)
