"""Backends keep one contract (kgfast/backends/base.py), and an op that names one is computed by it.

No function of kgfast/functional, ops or steps may make scores or losses in plain torch, by the specification or by
another backend where `impl` names one: that would be a silent fallback.
"""

import functools
import inspect

import pytest
import torch
from step_cases import OVER_ALL, STEPS, make_step
from torch.utils._python_dispatch import TorchDispatchMode

import kgfast
from kgfast import backends, optim, reference, testing
from kgfast.backends.base import Backend
from kgfast.ops import library
from kgfast.registry import ALL_OBJECTIVES, Memory, Objective, Similarity

KERNELS = Backend.__abstractmethods__
# methods with a default that a backend may replace: what it can, where it runs, what it does in one launch
HOOKS = {
    "why_not",
    "workspace",
    "bf16_reason",
    "use_huge_pages",
    "check_table",
    "reduce_tables",
    "task_losses",
    "task_gradients",
}

needs_triton = pytest.mark.skipif(not backends.TRITON, reason="Triton is not installed")


def methods(owner: type) -> dict:
    return {name: value for name, value in vars(owner).items() if inspect.isfunction(value)}


def classes_of(name: str) -> list[type]:
    """The class of a backend and those that it inherits from, the contract left out."""
    return [one for one in type(backends.get(name)).__mro__ if issubclass(one, Backend) and one is not Backend]


def parameters(function) -> list[tuple]:
    """Names, kinds and defaults."""
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


@needs_triton
@pytest.mark.parametrize("name", backends.CLASSES)
def test_a_backend_has_the_signatures_of_the_contract_and_no_other_public_method(name):
    contract = methods(Backend)
    for owner in classes_of(name):
        for method, function in methods(owner).items():
            assert method in contract or method.startswith("_"), f"{owner.__name__}.{method} is not in the contract"
            if method in contract:
                assert method in KERNELS | HOOKS, f"{owner.__name__}.{method}: the contract's own is overridden"
                assert parameters(function) == parameters(contract[method]), f"{owner.__name__}.{method}"


def test_every_kernel_of_the_contract_is_named_by_what_it_serves():
    """A kernel is abstract and public, or stands behind the public method of its name."""
    for kernel in KERNELS:
        assert not kernel.startswith("_") or callable(getattr(Backend, kernel[1:])), kernel
    assert set(HOOKS) <= set(methods(Backend)) and not HOOKS & KERNELS


@pytest.mark.parametrize("name", library.NAMES)
def test_ops_take_what_the_contract_takes(name):
    """In the order of the contract; `like` gives an op its device, three tensors stand for ranges of known rows."""
    spaces = [getattr(torch.ops, space) for space in library.NAMESPACES]
    assert len({str(getattr(space, name).default._schema).partition("::")[2] for space in spaces}) == 1
    taken = [one.name for one in getattr(torch.ops.kgfast, name).default._schema.arguments if one.name != "like"]
    if name == "candidate_loss":
        taken = [one for one in taken if one not in ("known_starts", "known_ends", "known")]
    declared = inspect.signature(getattr(Backend, name)).parameters.values()
    positional = [one.name for one in declared if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self"]
    assert taken == positional + ["check"] * ("check" in taken)


# ---- no silent fallback --------------------------------------------------------------------------------------

# what makes scores, losses or ranks of tables in torch
TORCHS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "logsumexp", "_log_softmax", "_softmax",
          "log_sigmoid_forward", "softplus", "nll_loss_forward", "binary_cross_entropy", "exp", "expm1", "log", "log1p",
          "binary_cross_entropy_with_logits", "_cdist_forward", "linalg_vector_norm", "norm", "topk")  # fmt: skip


class Watch(TorchDispatchMode):
    """Inside: the kernels that `lane`'s backend ran, and an AssertionError for torch's own products outside of them."""

    def __init__(self, lane, monkeypatch):
        super().__init__()
        self.called: set[str] = set()
        self.depth = 0
        for name in backends.CLASSES:
            if name == lane.impl or name in backends._made:
                self.watch(backends.get(name), name == lane.impl, monkeypatch)
        for name in reference.SIMILARITIES:  # the specification's scores, losses and ranks all come by here
            monkeypatch.setitem(reference.SIMILARITIES, name, self.specification)

    def watch(self, backend: Backend, named: bool, monkeypatch) -> None:
        for kernel in sorted(KERNELS | {"reduce_tables", "task_losses", "task_gradients"}):
            inside = self.noted(kernel, getattr(backend, kernel)) if named else self.another(backend, kernel)
            monkeypatch.setattr(backend, kernel, inside)
        for method in methods(Backend).keys() - KERNELS - HOOKS if named else ():
            if not method.startswith("_"):  # torch leaves the mode on its way into an op
                monkeypatch.setattr(backend, method, self.watched(getattr(backend, method)))

    def noted(self, kernel, function):
        def run(*arguments, **options):
            self.called.add(kernel)
            self.depth += 1
            try:
                return function(*arguments, **options)
            finally:
                self.depth -= 1

        return run

    def watched(self, function):
        def run(*arguments, **options):
            with self:
                return function(*arguments, **options)

        return run

    def another(self, backend, kernel):
        def refuse(*arguments, **options):
            raise AssertionError(f"{kernel} of the backend {backend.name!r} was reached, which impl does not name")

        return refuse

    @staticmethod
    def specification(query, rows):
        raise AssertionError("the specification was reached, which impl does not name")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition("::")[2].partition(".")[0]
        if self.depth == 0 and function.namespace == "aten" and name.removesuffix("_") in TORCHS:
            raise AssertionError(f"torch.{name} was called outside of the backend that impl names")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def watch(lane, monkeypatch):
    return Watch(lane, monkeypatch)


def check(watch, call, forward, backward=()):
    """call(): a tensor; its value must be made by the kernels `forward`, its gradient by `backward`."""
    with watch:
        watch.called.clear()
        value = call()
        assert set(forward) <= watch.called, f"{set(forward) - watch.called} did not run, {watch.called} did"
        if backward:
            watch.called.clear()
            value.sum().backward()
            assert set(backward) <= watch.called, f"{set(backward) - watch.called} did not run, {watch.called} did"


def make(lane):
    """(tables that want gradients, triples, negatives, weights, known) for a small batch."""
    case = lane.case("complex", 6, 5, 4)
    tables = [table.requires_grad_() for table in (case.entities, case.relations)]
    return tables, case, lane.known(case.triples)


def rows_kernel(sparse: bool) -> str:
    return "table_gradient_rows" if sparse else "reduce_rows"


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize(
    "setting",
    testing.pairwise(
        score=("complex", "transe_l2"), objective=Objective.words(), side=("tail", "head", "both"),
        ids=("own", "shared", "sampler"), weighted=(False, True), known=(False, True), sparse=(False, True),
        temperature=(0.0, 0.7),
    ),
    ids=lambda s: "-".join(map(str, s.values())),
)  # fmt: skip
def test_negative_sampling_loss(lane, watch, setting):
    tables, case, known = make(lane)
    ids = case.negatives[:2] if setting["ids"] == "shared" else case.negatives
    ids = torch.stack([ids, ids]) if setting["side"] == "both" else ids
    drawn = setting["ids"] == "sampler"
    negatives = kgfast.NegativeSampler(4, seed=1, known=known if setting["known"] else None) if drawn else ids

    def call():
        return kgfast.negative_sampling_loss(
            *tables, case.triples, negatives, score=setting["score"], side=setting["side"],
            objective=setting["objective"], margin=1.0, adversarial_temperature=setting["temperature"],
            weights=case.weights if setting["weighted"] else None, known=known if setting["known"] else None,
            sparse_grad=setting["sparse"], impl=lane.impl,
        )  # fmt: skip

    forward = {"_queries", "_sampled_loss"} | ({"_sample_negatives"} if drawn else set())
    check(watch, call, forward, {"_queries_adjoint", rows_kernel(setting["sparse"])})


@pytest.mark.lanes(widest=True, tiles=True)
@pytest.mark.parametrize("objective", list(ALL_OBJECTIVES))
@pytest.mark.parametrize("side", ["tail", "head", "both"])
@pytest.mark.parametrize("several", [False, True])
def test_one_vs_all_loss(lane, watch, objective, side, several):
    tables, case, known = make(lane)
    options = dict(score="complex", side=side, objective=objective, label_smoothing=0.1, impl=lane.impl)
    options["known"] = known if several else None
    forward = {"_queries", "_candidate_loss"} | ({"answers"} if several else set())
    check(watch, lambda: kgfast.one_vs_all_loss(*tables, case.triples, **options), forward,
          {"_queries_adjoint", "reduce_rows"})  # fmt: skip


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("sparse", [False, True])
def test_scores(lane, watch, sparse):
    tables, case, _ = make(lane)
    options = dict(score="complex", sparse_grad=sparse, impl=lane.impl)
    backward = {"_pair_query_gradient", "_queries_adjoint", rows_kernel(sparse)}
    check(watch, lambda: kgfast.score_triples(*tables, case.triples, **options), {"_queries", "_pair_scores"}, backward)
    own = case.negatives.clamp(min=0)
    for side, ids in (("tail", own), ("head", own[0]), ("tail", None)):
        if ids is None and not lane.tiles:
            continue
        kernels = {"_queries", "_pair_scores"} if ids is not None else {"_queries", "all_scores"}
        gradients = backward if ids is not None else {"all_scores_gradient", "_queries_adjoint", rows_kernel(sparse)}
        scores = functools.partial(kgfast.score_candidates, *tables, case.triples, ids, side=side, **options)
        check(watch, scores, kernels, gradients)


@pytest.mark.lanes(widest=True, tiles=True)
@pytest.mark.parametrize("side", ["tail", "head"])
@pytest.mark.parametrize("filtered", [False, True])
def test_rank_and_topk(lane, watch, side, filtered):
    tables, case, known = make(lane)
    options, known = dict(score="complex", side=side, impl=lane.impl), known if filtered else None
    for ties in ("optimistic", "realistic", "pessimistic"):
        check(watch, lambda ties=ties: kgfast.rank(*tables, case.triples, known=known, ties=ties, **options),
              {"_queries", "_rank"})  # fmt: skip
    check(watch, lambda: kgfast.topk(*tables, case.triples, 3, exclude=known, **options)[0], {"_queries", "_topk"})


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("side", ["tail", "head", "both"])
@pytest.mark.parametrize("kind", ["plain", "known", "weighted", "shared"])
def test_sample_negatives(lane, watch, side, kind):
    _, case, known = make(lane)
    options = {
        "known": dict(known=known),
        "weighted": dict(weights=torch.ones(lane.entities)),
        "shared": dict(shared=2),
    }
    options = dict(side=side, seed=0, impl=lane.impl, **options.get(kind, {}))
    check(watch, lambda: kgfast.sample_negatives(case.triples, 4, lane.entities, **options), {"_sample_negatives"})


@pytest.mark.lanes(widest=True, tiles=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_cross_entropy(lane, watch, reduction, ignored, biased):
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 6), (11, 6), (11,))
    hidden, weight, bias = (torch.randn(s, generator=generator).to(lane.device).requires_grad_() for s in shapes)
    targets = torch.tensor([0, -100 if ignored else 1, 10, 3, 3], device=lane.device)
    options = dict(bias=bias if biased else None, reduction=reduction, label_smoothing=0.1, impl=lane.impl)
    backward = {"_candidate_loss"} if reduction == "none" else set()  # the others' gradient is made going forward
    check(watch, lambda: kgfast.linear_cross_entropy(hidden, weight, targets, **options), {"_candidate_loss"}, backward)
    hidden.grad = weight.grad = None
    kgfast.linear_cross_entropy(hidden, weight, targets, **options).sum().backward()
    assert hidden.grad is not None and weight.grad is not None


def terms(lane):
    """A term of every kind, by name."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 6), (11, 6), (11,))
    query, table, bias = (torch.randn(s, generator=generator).to(lane.device).requires_grad_() for s in shapes)
    targets, offsets, ids, known_offsets, known, candidates = lane.on(
        torch.tensor([0, -100, 10, 3, 3]), torch.tensor([0, 2, 2, 3, 4, 5]), torch.tensor([1, 4, 0, 9, 10]),
        torch.tensor([0, 1, 2, 2, 4, 5]), torch.tensor([5, 0, 2, 7, 9]), torch.tensor([0, 10, 3, 6]),
    )  # fmt: skip
    found = {}
    for similarity in Similarity.words():
        for objective in list(ALL_OBJECTIVES):
            for answers, right in (("one", targets), ("several", (offsets, ids))):
                for rivals in ("all", "known", "candidates", "both"):
                    options = dict(similarity=similarity, objective=objective)
                    options["bias"] = bias if similarity == "dot" else None
                    options["known"] = (known_offsets, known) if rivals in ("known", "both") else None
                    options["candidates"] = candidates if rivals in ("candidates", "both") else None
                    name = f"{similarity}-{objective}-{answers}-{rivals}"
                    found[name] = kgfast.Term(query, table, right, **options)
    return found


# terms that a backend may still leave to torch: (words of their names)
LEFT_TO_TORCH: tuple[str, ...] = ()


@pytest.mark.lanes(widest=True, tiles=True)
@pytest.mark.parametrize("similarity", Similarity.words())
def test_multitask_loss(lane, watch, similarity):
    """A term alone, and two that may share a launch."""
    found = {name: term for name, term in terms(lane).items() if name.startswith(f"{similarity}-")}
    for name, term in found.items():
        if any(word in name for word in LEFT_TO_TORCH):
            continue
        check(watch, lambda term=term: kgfast.multitask_loss([term], impl=lane.impl)[0], {"_candidate_loss"})
    pair = list(found.values())[:2]
    for memory in Memory.words():
        together = memory == "low" and similarity == "dot" and lane.backend.shares_launches
        kernels, gradients = ({"task_losses"}, {"task_gradients"}) if together else ({"_candidate_loss"}, set())
        check(watch, lambda memory=memory: kgfast.multitask_loss(pair, [1.0, 0.5], memory=memory, impl=lane.impl)[0],
              kernels, gradients)  # fmt: skip


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", STEPS)
def test_steps(lane, watch, kind):
    if kind in OVER_ALL and not lane.tiles:
        pytest.skip("without tiles there is no loss over all entities")
    dropout = 0.1 if lane.tiles else 0.0  # the CUDA backend's masks are Triton's
    options = dict(optimizer=optim.RowAdam, query_dropout=dropout)
    model, step, triples = make_step(kind, lane.device, lane.impl, "complex", **options)
    before = model.entities.detach().clone()
    kernels = {"_queries", "_queries_adjoint", "reduce_tables", "_row_update"}
    kernels |= ({"dropout_mask"} if dropout else set()) | ({"reduce_rows"} if lane.impl == "cpu" else set())
    kernels |= {"_candidate_loss", "update_all_rows"} if kind in OVER_ALL else {"_sampled_loss", "_sample_negatives"}
    kernels |= {"_add_regularizer"} if "regularizer" in STEPS[kind] else set()
    kernels |= {"assert_answers"} if "answers" in STEPS[kind] else set()
    check(watch, lambda: step(triples, 0), kernels)
    assert not torch.equal(model.entities, before)


def test_the_specification_has_no_steps():
    with pytest.raises(kgfast.KgfastError, match="impl='reference' has no training steps"):
        make_step("own", "cpu", "reference", "complex")


def test_a_fallback_would_be_noticed(monkeypatch):
    """What the tests above refuse, done on purpose."""
    from lanes import Lane

    lane = Lane("cpu", "cpu")
    tables, case, _ = make(lane)
    score = dict(score="complex", side="tail")
    watch = Watch(lane, monkeypatch)
    with pytest.raises(AssertionError, match="specification was reached"), watch:
        kgfast.one_vs_all_loss(*tables, case.triples, impl="reference", **score)
    with pytest.raises(AssertionError, match=r"torch.mm was called outside"), watch:
        tables[0] @ tables[0].T
    with pytest.raises(AssertionError, match="_rank.* did not run"):
        check(watch, lambda: kgfast.score_triples(*tables, case.triples, score="complex", impl="cpu"), {"_rank"})
    watch.watch(backends.get("cpu"), False, monkeypatch)
    with pytest.raises(AssertionError, match="'cpu' was reached, which impl does not name"), watch:
        kgfast.rank(*tables, case.triples, impl="cpu", **score)
