"""Every function of a sanitized kgfast._C at every CPU level, over shapes that hurt; run by tests/kernels/sanitize.sh.

Tensors have no slack, so a read or write beyond one is seen; results are held to the reference by other tests.
"""

import importlib.util
import itertools
import sys
import time

import torch

GENERATOR = torch.Generator().manual_seed(0)
DIMS = (1, 2, 15, 17, 33, 258)
BATCHES = (0, 1, 7, 13)
SIMILARITIES = range(4)
MODULUS = 3


class Recorder:
    """Passes every call on and remembers which functions were called."""

    called: set[str] = set()

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(self.module, name)


def load(path):
    """The extension at `path` as kgfast._C, before the package asks for its own."""
    spec = importlib.util.spec_from_file_location("kgfast._C", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["kgfast._C"] = module
    from kgfast import backends, nn, optim, reference, steps, testing
    from kgfast.backends import cpu

    assert cpu._C is module
    cpu._C = Recorder(module)
    return module, backends.get("cpu"), steps, nn, optim, reference, testing


native, cpu, steps, nn, optim, reference, testing = load(sys.argv[1])
from kgfast.registry import Regularizer, Update  # noqa: E402  after the extension


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=GENERATOR, dtype=dtype)


def ids(count, *shape, lowest=0):
    """Ids with repeats; the last row is among them."""
    found = torch.randint(lowest, count, shape, generator=GENERATOR)
    if found.numel():
        found.view(-1)[-1] = count - 1
    return found


def ranges(targets, count, empty=True):
    """CSR of ascending ids: target and others, the whole table, none; the last range ends where the ids do."""
    lists = []
    for b, target in enumerate(targets.tolist()):
        several = torch.unique(torch.cat([ids(count, min(5, count)), torch.tensor([target, count - 1])]))
        lists.append([several, torch.arange(count), several[: 0 if empty else 1]][b % 3])
    ends = torch.tensor([len(one) for one in lists], dtype=torch.int64).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])[:-1]
    return starts, ends, torch.cat(lists) if lists else torch.empty(0, dtype=torch.int64)


def none():
    return (torch.empty(0, dtype=torch.int64),) * 3


def even(dim, similarity):
    return dim + dim % 2 if similarity == MODULUS else dim


def updates_of(table):
    """Every way to use a row's gradient. An update holds addresses, this generator what lies there."""
    states = {"sgd": (), "adagrad": (table.abs(),), "row_adagrad": (table[:, 0].abs().contiguous(),)}
    states |= {"adam": (torch.zeros_like(table), table.abs()), "dense": ()}
    for update, state in states.items():
        rows = torch.zeros_like(table) if update == "dense" else table.clone()
        yield cpu.row_update(Update.of(update, "update"), rows, state, lr=0.1, eps=1e-8, beta1=0.9, beta2=0.99, step=3)


def queries(dtype):
    for name, dim, batch, side in itertools.product(reference.SCORES, DIMS, BATCHES, (0, 1)):
        if name == "rescal" and dim > 33:
            continue
        entities, relations = testing.make_tables(name, testing.usable_dim(name, dim), dtype=dtype)
        triples = testing.make_triples(batch)
        code = reference.SCORES[name].code
        query = cpu.queries(entities, relations, triples, code, side)
        cpu.queries_adjoint(query, entities, relations, triples, code, side)


def scores(dtype):
    for similarity, dim, batch, count in itertools.product(SIMILARITIES, DIMS, BATCHES, (1, 2, 8, 37, 70)):
        dim = even(dim, similarity)
        query, table = random(batch, dim, dtype=dtype), random(count, dim, dtype=dtype)
        found = cpu.all_scores(query, table, similarity)
        cpu.all_scores_gradient(torch.ones_like(found), found, query, table, similarity)
        rows = ids(count, batch, count)
        found = cpu.pair_scores(query, table, rows, similarity)
        cpu.pair_query_gradient(torch.ones_like(found), found, query, table, rows, similarity)


def sampled(dtype):
    axes = dict(
        similarity=SIMILARITIES, dim=DIMS, batch=BATCHES, negatives=(1, 5, 16, 67), objective=range(4),
        temperature=(0.0, 1.0), lists=(0, 1, 3), known=(False, True), gradient=(True, False), rows=(1, 2, 41),
    )  # fmt: skip
    for case in testing.pairwise(**axes):
        similarity, batch, count = case["similarity"], case["batch"], case["rows"]
        dim = even(case["dim"], similarity)
        query, table, targets = random(batch, dim, dtype=dtype), random(count, dim, dtype=dtype), ids(count, batch)
        lists = min(case["lists"] or batch, batch)
        negatives = ids(count, lists, case["negatives"], lowest=-1)
        known = ranges(targets, count) if case["known"] else none()
        _, _, pairs, coefficients, d_negatives = cpu.sampled_loss(
            query, table, targets, negatives, *known, torch.ones(batch, dtype=dtype), similarity,
            case["objective"], 1.0, case["temperature"], case["gradient"],
        )  # fmt: skip
        if not case["gradient"]:
            continue
        extra = negatives.clamp(min=0).flatten() if lists != batch else ids(count, 3)
        rows = d_negatives.view(-1, dim) if lists != batch else random(3, dim, dtype=dtype)
        for gradient in (cpu.table_gradient, cpu.table_gradient_rows):
            gradient(query, table, pairs, coefficients, extra, rows, similarity)
        for update in updates_of(table):
            cpu.reduce_rows(query, table, pairs, coefficients, [(extra, rows)], similarity, update)


def candidates(dtype):
    axes = dict(
        similarity=SIMILARITIES, dim=DIMS, batch=(*BATCHES, 400), rows=(1, 2, 37, 70, 1100), objective=(1, 2),
        smoothing=(0.0, 0.1), bias=(False, True), several=(False, True), known=(False, True), gradient=(True, False),
        space=(1, 1 << 25),
    )  # fmt: skip
    before = cpu.workspace_bytes
    for case in testing.pairwise(**axes):
        similarity, batch, count = case["similarity"], case["batch"], case["rows"]
        dim, cpu.workspace_bytes = even(case["dim"], similarity), case["space"]
        query, table, targets = random(batch, dim, dtype=dtype), random(count, dim, dtype=dtype), ids(count, batch)
        places = torch.arange(batch)
        answers = ranges(targets, count) if case["several"] else (places, places + 1, targets)
        known = ranges(targets, count) if case["known"] else None
        weights = torch.ones(batch, dtype=dtype)
        weights[::3] = 0
        rounds = similarity == 0 and dtype == torch.float32 and cpu.bf16_reason() is None
        for bf16 in (False, True) if rounds else (False,):
            cpu.candidate_loss(
                query, table, random(count if case["bias"] else 0, dtype=dtype), *answers, weights, similarity,
                case["objective"], case["smoothing"], case["gradient"], bf16=bf16, known=known,
            )  # fmt: skip
    cpu.workspace_bytes = before


def scans(dtype):
    for similarity, dim, batch, count in itertools.product(SIMILARITIES, DIMS, BATCHES, (1, 2, 37, 70)):
        dim = even(dim, similarity)
        query, table, targets = random(batch, dim, dtype=dtype), random(count, dim, dtype=dtype), ids(count, batch)
        table[-1] = table[0]  # a tie
        for known in (none(), ranges(targets, count)):
            cpu.rank(query, table, targets, *known, similarity)
            for k in (1, 3, count + 2):
                cpu.topk(query, table, *known, k, similarity)


def sorts(dtype):
    """Row passes over tables whose ids take 1 to 4 digits, short ones and those that threads share."""
    for bits, pairs in itertools.product((1, 8, 9, 16, 17, 24, 25), (1, 90, 20000)):
        if bits == 25 and (dtype != torch.float32 or pairs != 90):
            continue  # a large table: once is enough
        count = max((1 << bits) - 1, 2)
        table, query = torch.zeros(count, 1, dtype=dtype), random(pairs, 1, dtype=dtype)
        found = cpu.table_gradient_rows(query, table, ids(count, pairs, 1), random(pairs, 1, dtype=dtype),
                                        ids(count, 5), random(5, 1, dtype=dtype), 0)  # fmt: skip
        assert (found[0][1:] > found[0][:-1]).all()


def rows(dtype):
    for dim, count in itertools.product(DIMS, (1, 2, 70)):
        table = random(count, dim, dtype=dtype)
        several = [(ids(count, n), random(n, dim, dtype=dtype)) for n in (0, 3, 1, 8)]
        empty = table.new_empty((0, 0))
        for update in updates_of(table):
            cpu.update_all_rows(random(count, dim, dtype=dtype), update)
            cpu.reduce_rows(empty, table, empty.long(), empty, several, 0, update)
        for kind, parts, touched in itertools.product(("n3", "l2"), (1, 2), (0, 1, 9)):
            if parts == 1 or dim % 2 == 0:
                gradients = torch.zeros(touched, dim, dtype=dtype)
                cpu.add_regularizer(Regularizer.of(kind, "kind"), parts, 0.1, table, ids(count, touched), gradients)


def samples():
    for lists, count, entities, side, step in itertools.product(
        BATCHES, (0, 1, 3, 8, 17), (1, 2, 37), (0, 1), (0, 2**40)
    ):
        for weighted, filtered in itertools.product((False, True), repeat=2):
            table = reference.draw_table(torch.arange(1.0, 1 + entities)) if weighted else none()[0]
            known = ranges(ids(entities, lists), entities) if filtered else none()
            cpu.sample_negatives(lists, count, entities, side, 7, step, table, *known)


def training_steps(dtype):
    """Whole training steps, in workspaces that grow and shrink with the batch."""
    for score, reciprocal in (("transe_l2", False), ("rotate", False), ("complex", True)):
        model = nn.KGEModel(41, 3, 34, score=score, reciprocal=reciprocal, dtype=dtype)
        optimizer = optim.RowAdam(model.parameters())
        options = dict(side="both", regularizer="n3", regularizer_weight=0.1, query_dropout=0.2)
        runs = [
            steps.NegativeSamplingStep(model, optimizer, negatives=5, sharing=sharing, chunk=4, **options)
            for sharing in ("none", "chunk", "batch")
        ]
        runs.append(steps.OneVsAllStep(model, optimizer, label_smoothing=0.1, **options))
        for index, batch in enumerate((13, 1, 29)):
            triples = testing.make_triples(batch, num_entities=41, num_relations=3)
            for step in runs:
                step(triples, index)


def main(threads_alone):
    """threads_alone: what threads share is the same at every level, so one is enough for it."""
    start, count = time.perf_counter(), 0
    levels = native.cpu_levels()
    works = (queries, scores, sampled, candidates, scans, sorts, rows, training_steps)
    # float64 has one body, which every level shares
    cases = [*((name, torch.float32) for name in levels), (levels[0], torch.float64)]
    for level, dtype in cases[-2:-1] if threads_alone else cases:
        native.set_cpu_level(level)
        assert native.cpu_level() == level
        for threads in (3,) if threads_alone else (1, 3):
            torch.set_num_threads(threads)
            for work in works:
                native.release_scratch()
                print(f"{level} {str(dtype)[6:]} {threads} thread(s): {work.__name__}", flush=True)
                work(dtype)
                count += 1
    samples()
    told = {"scores", "enumerations", "cpu_level", "cpu_levels", "set_cpu_level", "scratch_bytes", "release_scratch"}
    functions = {name for name in dir(native) if callable(getattr(native, name)) and not name.startswith("_")}
    missed = functions - told - Recorder.called
    assert not missed, f"never called: {', '.join(sorted(missed))}"
    assert native.scratch_bytes() >= 0 and native.scores()
    print(f"sanitize: {count + 1} groups of calls, no report, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    with testing.poison_empty():
        main("threads" in sys.argv[2:])
