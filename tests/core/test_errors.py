"""Bad input of ops: an exception that names the argument and the offending value, before anything runs."""

import pytest
import torch

import kgfast
from kgfast import testing


def arguments(score="complex", dim=18, batch=7):
    case = testing.make_case(score, dim, batch, 5)
    return dict(entities=case.entities, relations=case.relations, triples=case.triples, negatives=case.negatives)


def with_value(tensor, place, value):
    changed = tensor.clone()
    changed[place] = value
    return changed


def call(function, *, score="complex", side="tail", impl="cpu", **changes):
    """A public function with good arguments, except for `changes`."""
    given = arguments()
    given.update({key: changes.pop(key) for key in list(changes) if key in given})
    tables = (given["entities"], given["relations"], given["triples"])
    options = dict(score=score, impl=impl, **changes)
    if function == "score_triples":
        return kgfast.score_triples(*tables, **options)
    options["side"] = side
    if function == "negative_sampling_loss":
        return kgfast.negative_sampling_loss(*tables, given["negatives"], **options)
    if function == "topk":
        return kgfast.topk(*tables, options.pop("k", 3), **options)
    return getattr(kgfast, function)(*tables, **options)


FUNCTIONS = ("score_triples", "score_candidates", "negative_sampling_loss", "one_vs_all_loss", "rank", "topk")
IMPLS = ("cpu", "reference")


def test_good_arguments_are_good():
    for function in FUNCTIONS:
        for impl in IMPLS:
            call(function, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("place, value", [((2, 0), 37), ((2, 0), -1), ((6, 1), 5), ((0, 1), -7), ((1, 0), 2**40)])
def test_ids_out_of_range(function, impl, place, value):
    triples = with_value(arguments()["triples"], place, value)
    with pytest.raises((ValueError, IndexError), match=rf"(?s)triples.*{value}"):
        call(function, triples=triples, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [37, -2])
def test_negatives_out_of_range(impl, value):
    """-1 is a masked negative, any other number outside of the table is an error."""
    negatives = with_value(arguments()["negatives"], (3, 4), value)
    with pytest.raises((ValueError, IndexError), match=rf"(?s)negatives.*{value}"):
        call("negative_sampling_loss", negatives=negatives, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [37, -1])
def test_candidates_out_of_range(impl, value):
    candidates = with_value(torch.zeros(7, 2, dtype=torch.int64), (3, 1), value)
    with pytest.raises((ValueError, IndexError), match=rf"(?s)candidates.*{value}"):
        call("score_candidates", candidates=candidates, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_targets_out_of_range(impl):
    hidden, weight = torch.randn(3, 4), torch.randn(5, 4)
    for value in (5, -1):
        with pytest.raises((ValueError, IndexError), match=rf"(?s)targets.*{value}"):
            kgfast.linear_cross_entropy(hidden, weight, torch.tensor([0, value, 1]), impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(triples=torch.zeros(7, 2, dtype=torch.int64)), r"triples.*(7, 2|\[7, 2\])"),
        (dict(triples=torch.zeros(3, dtype=torch.int64)), r"triples.*3"),
        (dict(triples=torch.zeros(7, 3, dtype=torch.int16)), "triples.*int16"),
        (dict(triples=torch.zeros(7, 3)), "triples.*float32"),
        (dict(triples=[[0, 0, 1]]), "triples.*list"),
        (dict(entities=torch.zeros(37)), r"entities.*37"),
        (dict(entities=torch.zeros(37, 18).half()), "entities.*float16"),
        (dict(entities=torch.zeros(37, 18, dtype=torch.int64)), "entities.*int64"),
        (dict(entities=torch.zeros(37, 18).double()), r"(entities|relations).*float(32|64)"),
        (dict(relations=torch.zeros(5, 17)), r"relations.*17"),
        (dict(relations=torch.zeros(5, 18, device="meta")), "(entities|relations).*meta"),
        (dict(entities=torch.zeros(37, 17), relations=torch.zeros(5, 17)), r"(entities|complex).*17"),
        (dict(score="complx"), "score.*complx.*complex"),
        (dict(score=3), "score.*3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(function, impl, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        call(function, impl=impl, **changes)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "function, changes, message",
    [
        ("negative_sampling_loss", dict(negatives=torch.zeros(8, 5, dtype=torch.int64)), "negatives.*8"),
        ("negative_sampling_loss", dict(negatives=torch.zeros(7, dtype=torch.int64)), "negatives.*7"),
        ("negative_sampling_loss", dict(negatives=torch.zeros(7, 5)), "negatives.*float32"),
        ("negative_sampling_loss", dict(side="both"), "negatives.*7"),
        ("negative_sampling_loss", dict(objective="logistik"), "objective.*logistik.*logistic"),
        ("negative_sampling_loss", dict(weights=torch.ones(6)), "weights.*6"),
        ("one_vs_all_loss", dict(objective="margin"), "objective.*margin"),
        ("one_vs_all_loss", dict(label_smoothing=1.5), "label_smoothing.*1.5"),
        ("score_candidates", dict(candidates=torch.zeros(6, 2, dtype=torch.int64)), "candidates.*6"),
        ("score_candidates", dict(candidates=torch.zeros(2)), "candidates.*float32"),
        ("rank", dict(ties="mean"), "ties.*mean"),
        ("rank", dict(side="both"), "side.*both"),
        ("topk", dict(k=0), "k.*0"),
        ("topk", dict(side="tial"), "side.*tial"),
        ("rank", dict(known=torch.zeros(3)), "known"),
        ("topk", dict(exclude=[1]), "exclude"),
    ],
)  # fmt: skip
def test_wrong_options(function, impl, changes, message):
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        call(function, impl=impl, **changes)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unknown_impl(function):
    with pytest.raises(ValueError, match="(?s)impl.*cpuu.*cpu"):
        call(function, impl="cpuu")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_backend_that_cannot_serve_says_why(function):
    """CPU tensors on the CUDA backend: an error with the reason, no fallback."""
    with pytest.raises((ValueError, RuntimeError), match="(?s)cuda"):
        call(function, impl="cuda")


def test_known_of_another_graph():
    other = testing.make_known(testing.make_triples(7, num_entities=50), num_entities=50)
    with pytest.raises(ValueError, match="(?s)known.*50.*37|known.*37.*50"):
        call("rank", known=other)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(num_negatives=-1), "num_negatives.*-1"),
        (dict(num_entities=0), "num_entities.*0"),
        (dict(num_entities=2**31), "num_entities.*2147483648"),
        (dict(weights=torch.ones(36)), "weights.*36"),
        (dict(weights=-torch.ones(37)), "weights.*-1"),
        (dict(weights=torch.zeros(37)), "weights"),
        (dict(weights=torch.full((37,), torch.nan)), "weights.*nan"),
        (dict(shared=-1), "shared.*-1"),
        (dict(side="tial"), "side.*tial"),
        (dict(triples=torch.zeros(7, 3)), "triples.*float32"),
    ],
)  # fmt: skip
def test_sample_negatives(impl, changes, message):
    given = dict(triples=arguments()["triples"], num_negatives=3, num_entities=37, side="tail", seed=0)
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        kgfast.sample_negatives(**{**given, **changes}, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(hidden=torch.randn(3, 5)), "(hidden|weight).*(4|5)"),
        (dict(weight=torch.randn(5)), "weight.*5"),
        (dict(hidden=torch.randn(3, 4).half()), "hidden.*float16"),
        (dict(targets=torch.zeros(2, dtype=torch.int64)), "targets.*2"),
        (dict(targets=torch.zeros(3)), "targets.*float32"),
        (dict(bias=torch.zeros(4)), "bias.*4"),
        (dict(reduction="man"), "reduction.*man.*mean"),
        (dict(label_smoothing=-0.1), "label_smoothing.*-0.1"),
    ],
)  # fmt: skip
def test_linear_cross_entropy(impl, changes, message):
    given = dict(
        hidden=torch.randn(3, 4),
        weight=torch.randn(5, 4),
        targets=torch.zeros(3, dtype=torch.int64),
        impl=impl,
    )
    given.update(changes)
    tensors = [given.pop(key) for key in ("hidden", "weight", "targets")]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        kgfast.linear_cross_entropy(*tensors, **given)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("which", ["entities", "relations", "triples"])
def test_tensors_with_strides_are_right_or_refused(function, which):
    """A transposed or strided tensor gives the numbers of its contiguous copy, or an error that names it."""
    given = arguments()[which]
    wide = torch.cat([given, given + 1], dim=1)[:, : given.shape[1]]
    transposed = given.T.contiguous().T
    expected = call(function, **{which: given})
    for strided in (wide, transposed):
        assert not strided.is_contiguous() and torch.equal(strided, given)
        try:
            ours = call(function, **{which: strided})
        except ValueError as error:
            assert which in str(error) and "contiguous" in str(error)
            continue
        pairs = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
        for a, b in pairs:
            assert torch.equal(a, b)


def test_multitask_terms():
    query, table, targets = torch.randn(3, 4), torch.randn(5, 4), torch.zeros(3, dtype=torch.int64)
    good = kgfast.Term(query, table, targets)
    with pytest.raises(ValueError, match="(?s)similarity.*dott.*dot"):
        kgfast.multitask_loss([good, kgfast.Term(query, table, targets, similarity="dott")])
    with pytest.raises(ValueError, match="(?s)objective.*sofmax.*softmax"):
        kgfast.multitask_loss([good, kgfast.Term(query, table, targets, objective="sofmax")])
    with pytest.raises((ValueError, IndexError), match="(?s)targets.*5"):
        kgfast.multitask_loss([good, kgfast.Term(query, table, targets + 5)])
    with pytest.raises(ValueError, match="(?s)terms"):
        kgfast.multitask_loss([])
    with pytest.raises(ValueError, match="(?s)weights.*(1|2|3)"):
        kgfast.multitask_loss([good, good], weights=[1.0, 2.0, 3.0])
