"""How the ops sit in torch: opcheck on every registered op, torch.compile, autocast."""

import pytest
import torch
import torch._dynamo.testing
from torch.utils._python_dispatch import TorchDispatchMode

import kgfast
from kgfast import KgfastError, testing
from kgfast.core.environment import TRITON_INTERPRETED

# in the interpreter (test_interpreter.py) the same of Triton's kernels
IMPL, NAMESPACE = ("triton", "kgfast_triton") if TRITON_INTERPRETED else ("cpu", "kgfast")
LOSSES = (
    "independent",
    "shared",
    "both",
    "sampler",
    "one_vs_all",
    "linear",
    "multitask",
    "score_triples",
    "scores",
)


def make_loss(kind, score="complex"):
    """(function of leaves, leaves) for a public loss of each kind."""
    case = testing.make_case(score, 18, 7, 5)
    tables = [case.entities, case.relations]
    options = dict(score=score, impl=IMPL)
    known = testing.make_known(case.triples)
    linear = [torch.randn(7, 18), torch.randn(37, 18)]
    targets = case.triples[:, 2]
    stacked = torch.stack([case.negatives, case.negatives])
    sampler = kgfast.NegativeSampler(6, seed=3, known=known)
    return {
        "independent": (
            lambda *t: kgfast.negative_sampling_loss(
                *t, case.triples, case.negatives, side="tail", weights=case.weights, known=known, **options
            ),
            tables,
        ),
        "shared": (
            lambda *t: kgfast.negative_sampling_loss(*t, case.triples, case.negatives[:2], side="head", **options),
            tables,
        ),
        "both": (
            lambda *t: kgfast.negative_sampling_loss(*t, case.triples, stacked, side="both", **options),
            tables,
        ),
        "sampler": (
            lambda *t: kgfast.negative_sampling_loss(*t, case.triples, sampler, side="tail", **options),
            tables,
        ),
        "one_vs_all": (
            lambda *t: kgfast.one_vs_all_loss(*t, case.triples, side="tail", known=known, **options),
            tables,
        ),
        "linear": (lambda h, w: kgfast.linear_cross_entropy(h, w, targets, impl=IMPL), linear),
        "multitask": (
            lambda h, w: kgfast.multitask_loss(
                [kgfast.Term(h, w, targets), kgfast.Term(h, w, targets, objective="bce", weight=0.5)],
                impl=IMPL,
            )[0],
            linear,
        ),
        "score_triples": (lambda *t: kgfast.score_triples(*t, case.triples, **options).mean(), tables),
        "scores": (
            lambda *t: kgfast.score_candidates(*t, case.triples, side="head", **options).square().mean(),
            tables,
        ),
    }[kind]


def value_and_gradients(function, leaves):
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


class Recorder(TorchDispatchMode):
    """Keeps the first calls of every op of kgfast with what it was given."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == NAMESPACE:
            kept = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone(), args)
            calls = self.calls.setdefault(function, [])
            if len(calls) < 2:
                calls.append((kept, dict(kwargs or {})))
        return function(*args, **(kwargs or {}))


def registered_ops():
    names = torch._C._dispatch_get_all_op_names()
    return {name.partition(".")[0] for name in names if name.startswith(f"{NAMESPACE}::")}


@pytest.fixture(scope="module")
def recorded():
    """The calls that the public functions make to every op."""
    case = testing.make_case("complex", 18, 7, 5)
    known = testing.make_known(case.triples)
    arguments = (case.entities, case.relations, case.triples)
    with Recorder() as recorder:
        for kind in LOSSES:
            for score in ("complex", "transe_l2"):
                value_and_gradients(*make_loss(kind, score))
        value_and_gradients(
            lambda *t: kgfast.score_triples(*t, case.triples, score="complex", sparse_grad=True, impl=IMPL).sum(),
            [case.entities, case.relations],
        )
        options = dict(score="complex", side="tail", impl=IMPL)
        kgfast.rank(*arguments, known=known, **options)
        kgfast.topk(*arguments, 3, exclude=known, **options)
        kgfast.score_candidates(*arguments, case.negatives.clamp(min=0), **options)
        kgfast.sample_negatives(case.triples, 4, 37, side="tail", seed=0, known=known, impl=IMPL)
    return recorder.calls


def test_every_op_is_checked(recorded):
    called = {str(function).removesuffix(".default").replace(".", "::") for function in recorded}
    assert registered_ops() and called == registered_ops()


@pytest.mark.no_poison
def test_opcheck(recorded):
    """Schema, fake implementation, dispatch: on inputs without gradient: autograd is outside."""
    for function, calls in recorded.items():
        for args, kwargs in calls:
            torch.library.opcheck(function, args, kwargs)


@pytest.mark.no_poison
@pytest.mark.parametrize("kind", LOSSES)
def test_compile_gives_one_graph_and_the_same_numbers(kind):
    function, leaves = make_loss(kind)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # older torch asks for it
        found = value_and_gradients(compiled, leaves)
    for ours, eager in zip(found, value_and_gradients(function, leaves), strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.no_poison
def test_compile_with_other_batch_sizes_does_not_compile_again():
    def loss(entities, relations, triples, negatives):
        return kgfast.negative_sampling_loss(
            entities, relations, triples, negatives, score="rotate", side="tail", impl=IMPL
        )

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for batch in (7, 11, 23):
        case = testing.make_case("rotate", 18, batch, 5)
        leaves = [case.entities, case.relations]
        arguments = (case.triples, case.negatives)
        ours = value_and_gradients(lambda *t, a=arguments: compiled(*t, *a), leaves)
        eager = value_and_gradients(lambda *t, a=arguments: loss(*t, *a), leaves)
        for a, b in zip(ours, eager, strict=True):
            torch.testing.assert_close(a, b)
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1]


@pytest.mark.no_poison
def test_compile_of_topk():
    """rank is left out: that a NaN raises depends on the data."""
    case = testing.make_case("complex", 18, 7, 5)
    known = testing.make_known(case.triples)

    def answers(entities, relations, triples):
        return kgfast.topk(entities, relations, triples, 3, score="complex", side="tail", exclude=known, impl=IMPL)

    torch._dynamo.reset()
    arguments = (case.entities, case.relations, case.triples)
    compiled = torch.compile(answers, fullgraph=True, backend="aot_eager")(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(compiled, answers(*arguments), strict=True))


@pytest.mark.parametrize("kind", LOSSES)
def test_autocast_computes_in_float32(kind):
    function, leaves = make_loss(kind)
    expected = value_and_gradients(function, leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = value_and_gradients(function, leaves)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_autocast_takes_what_a_layer_hands_over():
    """Under autocast a Linear layer gives bfloat16: the loss is that of the same numbers in float32."""
    hidden, weight = torch.randn(7, 18, requires_grad=True), torch.randn(37, 18, requires_grad=True)
    layer, targets = torch.nn.Linear(18, 18), torch.arange(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = layer(hidden)
        assert features.dtype == torch.bfloat16
        loss = kgfast.linear_cross_entropy(features, weight, targets, impl=IMPL)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(features.float() @ weight.T, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", LOSSES)
def test_no_gradient_where_none_is_asked(kind):
    function, leaves = make_loss(kind)
    with torch.no_grad():
        assert not function(*[leaf.clone().requires_grad_() for leaf in leaves]).requires_grad
    assert not function(*leaves).requires_grad


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("wanted", [0, 1])
def test_gradient_of_one_table_alone(kind, wanted):
    function, leaves = make_loss(kind)
    expected = value_and_gradients(function, leaves)[1 + wanted]
    leaves = [leaf.clone().requires_grad_(place == wanted) for place, leaf in enumerate(leaves)]
    function(*leaves).backward()
    assert torch.equal(leaves[wanted].grad, expected)
    assert leaves[1 - wanted].grad is None


@pytest.mark.parametrize("kind", ["independent", "one_vs_all", "linear"])
def test_gradient_of_a_gradient_is_refused(kind):
    function, leaves = make_loss(kind)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    gradient = torch.autograd.grad(function(*leaves), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate|once_differentiable|grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_is_scaled_by_what_comes_from_above(kind):
    function, leaves = make_loss(kind)
    once = value_and_gradients(function, leaves)
    scaled = value_and_gradients(lambda *t: -3 * function(*t), leaves)
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(-3 * a, b)


FEW = [(7, 31, 40, True), (7, 33, 40, True), (7, 40_000, 40, False), (3000, 31, 4, True), (600_000, 2, 2, False)]


@pytest.mark.skipif(IMPL != "cpu", reason="of CPUs")
@pytest.mark.parametrize("rows, classes, dim, few", FEW)
def test_small_heads_are_torchs(rows, classes, dim, few, monkeypatch):
    """linear_cross_entropy falls through to torch where that is faster, and computes the same, under autocast too."""
    served = []
    torchs = torch.nn.functional.cross_entropy

    def noted(logits, *rest, **options):
        served.append(logits.dtype)
        return torchs(logits, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noted)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(count, dim, generator=generator) for count in (rows, classes))
    targets = torch.randint(classes, (rows,), generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = kgfast.linear_cross_entropy(hidden, weight, targets, reduction="none")
    assert served == ([torch.float32] if few else [])
    torch.testing.assert_close(ours, torchs(hidden @ weight.T, targets, reduction="none"), atol=1e-5, rtol=1e-5)
    with pytest.raises(KgfastError, match="targets"):
        kgfast.linear_cross_entropy(hidden, weight, targets + classes)
