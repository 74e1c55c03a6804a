"""The specification against hand-written scalar code and known answers; no compiled kernel is called here."""

import cmath
import math
from types import SimpleNamespace

import pytest
import torch

from kgfast import reference, testing
from kgfast.registry import RULES

SCORES = reference.SCORES


def scalar_score(name, h, r, t):
    """Each score written out over Python numbers."""
    dim, k = len(h), len(h) // 2

    def numbers(row):
        return [complex(row[i], row[i + k]) for i in range(k)]

    if name == "transe_l1":
        return -sum(abs(h[i] + r[i] - t[i]) for i in range(dim))
    if name == "transe_l2":
        return -math.sqrt(sum((h[i] + r[i] - t[i]) ** 2 for i in range(dim)))
    if name == "distmult":
        return sum(h[i] * r[i] * t[i] for i in range(dim))
    if name == "complex":
        return sum(a * b * c.conjugate() for a, b, c in zip(numbers(h), numbers(r), numbers(t), strict=True)).real
    if name == "rotate":
        return -sum(abs(a * cmath.exp(1j * p) - c) for a, p, c in zip(numbers(h), r, numbers(t), strict=True))
    if name == "simple":
        return sum(h[i] * r[i] * t[k + i] + t[i] * r[k + i] * h[k + i] for i in range(k)) / 2
    if name == "cp":
        return sum(h[i] * r[i] * t[k + i] for i in range(k))
    if name == "rescal":
        return sum(h[i] * r[i * dim + j] * t[j] for i in range(dim) for j in range(dim))
    raise AssertionError(f"no scalar code for {name}")


@pytest.mark.parametrize("score", SCORES)
def test_score_is_its_formula_by_every_query(score):
    case = testing.make_case(score, 6, 7, 5, dtype=torch.float64)
    tables = (case.entities, case.relations)
    expected = [
        scalar_score(score, case.entities[h].tolist(), case.relations[r].tolist(), case.entities[t].tolist())
        for h, r, t in case.triples.tolist()
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(reference.score_triples(*tables, case.triples, score=score), expected)
    for side in ("tail", "head", "relation"):
        if side == "relation" and SCORES[score].relation_query is None:
            continue
        every = reference.score_candidates(*tables, case.triples, score=score, side=side)
        own = every.gather(1, case.triples[:, reference.COLUMN[side], None]).squeeze(1)
        torch.testing.assert_close(own, expected)
        picked = reference.score_candidates(*tables, case.triples, case.negatives.clamp(0, 4), score=score, side=side)
        torch.testing.assert_close(picked, every.gather(1, case.negatives.clamp(0, 4)))


@pytest.mark.parametrize("score", ["transe_l1", "transe_l2", "rotate"])
def test_gradient_of_a_distance_is_zero_where_points_coincide(score):
    entities = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    width = SCORES[score].relation_width(4)
    relations = torch.zeros(1, width, dtype=torch.float64, requires_grad=True)
    scores = reference.score_triples(entities, relations, torch.tensor([[0, 0, 1]]), score=score)
    scores.sum().backward()
    assert scores.item() == 0
    assert torch.equal(entities.grad, torch.zeros_like(entities))
    assert torch.equal(relations.grad, torch.zeros_like(relations))


@pytest.mark.parametrize("score", SCORES)
def test_gradcheck(score):
    case = testing.make_case(score, 4, 7, 5, num_entities=9, dtype=torch.float64)
    tables = [case.entities.requires_grad_(), case.relations.requires_grad_()]
    for objective in ("logistic", "softmax", "bce"):

        def loss(entities, relations, objective=objective):
            return reference.negative_sampling_loss(
                entities,
                relations,
                case.triples,
                case.negatives,
                score=score,
                side="tail",
                objective=objective,
            )

        assert torch.autograd.gradcheck(loss, tables)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def scalar_negative_loss(objective, positive, negatives, margin, temperature):
    """One row of the negative sampling loss over Python numbers; the caller leaves out what is masked."""
    exponentials = [math.exp(temperature * s) for s in negatives]
    shares = [e / sum(exponentials) for e in exponentials]  # temperature 0: all 1 / N
    pairs = list(zip(shares, negatives, strict=True))
    if objective == "logistic":
        rivals = sum(w * -math.log(sigmoid(-margin - s)) for w, s in pairs)
        return (-math.log(sigmoid(margin + positive)) + rivals) / 2
    if objective == "softmax":
        return math.log(math.exp(positive) + sum(math.exp(s) for s in negatives)) - positive
    if objective == "bce":
        rivals = sum(-math.log(sigmoid(-s)) for s in negatives)
        return (-math.log(sigmoid(positive)) + rivals) / (1 + len(negatives))
    return sum(w * max(0.0, margin - positive + s) for w, s in pairs)


@pytest.mark.parametrize("objective", ["logistic", "softmax", "bce", "margin"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("side", ["tail", "head", "both"])
def test_negative_sampling_loss_is_its_formula(objective, temperature, side):
    case = testing.make_case("transe_l2", 5, 7, 5, side=side, dtype=torch.float64)
    tables = (case.entities, case.relations)
    known = testing.make_known(case.triples)
    known_rows = {tuple(row) for row in testing.make_known_triples(case.triples).tolist()}
    options = dict(score="transe_l2", side=side, objective=objective, margin=1.5, known=known)
    ours = reference.negative_sampling_loss(
        *tables,
        case.triples,
        case.negatives,
        weights=case.weights,
        adversarial_temperature=temperature,
        **options,
    )

    def score(h, r, t):
        return scalar_score("transe_l2", *(table[i].tolist() for table, i in zip(
            (case.entities, case.relations, case.entities), (h, r, t), strict=True)))  # fmt: skip

    sides = ["tail", "head"] if side == "both" else [side]
    ids = case.negatives if side == "both" else case.negatives[None]
    total = 0.0
    for one, lists in zip(sides, ids.tolist(), strict=True):
        for (h, r, t), row, weight in zip(case.triples.tolist(), lists, case.weights.tolist(), strict=True):
            corrupt = [(h, r, n) if one == "tail" else (n, r, t) for n in row if n >= 0]
            rivals = [score(*triple) for triple in corrupt if triple not in known_rows]
            loss = scalar_negative_loss(objective, score(h, r, t), rivals, 1.5, temperature)
            total += weight * loss / len(sides)
    assert ours.item() == pytest.approx(total / case.weights.sum().item(), rel=1e-12)


def test_all_masked_row_keeps_its_positive_part():
    case = testing.make_case("distmult", 4, 1, 3, dtype=torch.float64)
    target = case.triples[:, 2:].expand(1, 3)
    positive = reference.score_triples(case.entities, case.relations, case.triples, score="distmult").item()
    for objective, expected in {
        "logistic": -math.log(sigmoid(0.5 + positive)) / 2,
        "softmax": 0.0,
        "bce": -math.log(sigmoid(positive)),
        "margin": 0.0,
    }.items():
        for temperature in (0.0, 1.0):
            loss = reference.negative_sampling_loss(
                case.entities, case.relations, case.triples, target, score="distmult", side="tail",
                objective=objective, margin=0.5, adversarial_temperature=temperature,
            )  # fmt: skip
            assert loss.item() == pytest.approx(expected, abs=1e-15)


def test_shared_lists_serve_consecutive_rows():
    case = testing.make_case("complex", 6, 7, 5, dtype=torch.float64)
    shared = case.negatives[:3]
    spread = shared[[0, 0, 0, 1, 1, 2, 2]]  # b * 3 // 7
    losses = [
        reference.negative_sampling_loss(case.entities, case.relations, case.triples, ids, score="complex", side="head")
        for ids in (shared, spread)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_vs_all_loss_is_torch_where_the_target_is_the_only_answer(label_smoothing):
    case = testing.make_case("complex", 6, 7, 5, dtype=torch.float64)
    tables = (case.entities, case.relations, case.triples)
    logits = reference.score_candidates(*tables, score="complex", side="head")
    options = dict(score="complex", side="head", label_smoothing=label_smoothing)
    softmax = reference.one_vs_all_loss(*tables, **options)
    expected = torch.nn.functional.cross_entropy(logits, case.triples[:, 0], label_smoothing=label_smoothing)
    torch.testing.assert_close(softmax, expected)
    labels = torch.nn.functional.one_hot(case.triples[:, 0], len(case.entities)).double()
    labels = (1 - label_smoothing) * labels + label_smoothing / labels.shape[1]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(reference.one_vs_all_loss(*tables, objective="bce", **options), expected)


def test_one_vs_all_loss_with_several_answers():
    case = testing.make_case("distmult", 6, 3, 5, dtype=torch.float64)
    rows = {tuple(row) for row in testing.make_known_triples(case.triples).tolist()}
    tables = (case.entities, case.relations, case.triples)
    log_likelihood = reference.score_candidates(*tables, score="distmult").log_softmax(1)
    expected = []
    for b, (h, r, _) in enumerate(case.triples.tolist()):
        answers = [t for t in range(testing.NUM_ENTITIES) if (h, r, t) in rows]
        assert len(answers) > 1
        expected.append(-log_likelihood[b, answers].mean())
    known = testing.make_known(case.triples)
    ours = reference.one_vs_all_loss(*tables, score="distmult", side="tail", known=known)
    torch.testing.assert_close(ours, torch.stack(expected).mean())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_cross_entropy_is_torch(reduction):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 8), (11, 8)))
    bias, targets = torch.randn(11, generator=generator), torch.tensor([[0, -100, 10], [3, 3, 5]])
    options = dict(label_smoothing=0.1, reduction=reduction)
    ours = reference.linear_cross_entropy(hidden, weight, targets, bias=bias, **options)
    logits = (hidden @ weight.T + bias).transpose(1, 2)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, targets, **options))


def test_nothing_to_average_is_zero():
    hidden = torch.randn(2, 4, requires_grad=True)
    loss = reference.linear_cross_entropy(hidden, torch.randn(5, 4), torch.full((2,), -100))
    loss.backward()
    assert loss.item() == 0 and not hidden.grad.any()


def term(query, table, targets, **options):
    defaults = dict(weight=1.0, bias=None, ignore_index=-100, known=None, candidates=None, similarity="dot",
                    objective="softmax", name=None)  # fmt: skip
    return SimpleNamespace(query=query, table=table, targets=targets, **{**defaults, **options})


def test_multitask_loss_is_the_weighted_sum_of_its_terms():
    generator = torch.Generator().manual_seed(0)
    query, table, bias = (torch.randn(*shape, generator=generator) for shape in ((4, 8), (11, 8), (11,)))
    targets = torch.tensor([0, -100, 10, 3])
    lists = (torch.tensor([0, 2, 2, 5, 6]), torch.tensor([1, 4, 0, 9, 10, 7]))
    terms = [
        term(query, table, targets, bias=bias, weight=0.5),
        term(query, table, lists),
        term(query, table, targets, candidates=torch.tensor([0, 3, 4]), known=lists),
    ]
    total, per_task = reference.multitask_loss(terms)
    logits = query @ table.T
    likelihood = logits.log_softmax(1)
    several = [-likelihood[0, [1, 4]].mean(), -likelihood[2, [0, 9, 10]].mean(), -likelihood[3, 7]]
    rivals = {0: [0, 3], 2: [10, 3, 4], 3: [3, 0, 4]}  # candidates and the target first, less the known ones
    narrow = [-logits[b, ids].log_softmax(0)[ids.index(targets[b])] for b, ids in rivals.items()]
    expected = torch.stack([
        torch.nn.functional.cross_entropy(logits + bias, targets),
        torch.stack(several).mean(),
        torch.stack(narrow).mean(),
    ])  # fmt: skip
    torch.testing.assert_close(per_task, expected)
    torch.testing.assert_close(total, expected @ torch.tensor([0.5, 1.0, 1.0]))
    weighted, _ = reference.multitask_loss(terms, weights=[2.0, 0.0, 1.0])
    torch.testing.assert_close(weighted, expected[0] + expected[2])


@pytest.mark.parametrize(
    "counter, key, words",
    [  # the known answers that come with Random123
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    ours = reference.philox(tuple(torch.tensor(c) for c in counter), tuple(key))
    assert " ".join(f"{word:08x}" for word in ours.tolist()) == words


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("shape", ["equal", "skewed", "zeros", "few"])
def test_alias_table_has_the_right_probabilities(size, shape):
    weights = torch.ones(size, dtype=torch.float64)
    if shape != "equal":
        weights = torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)) ** 4
    if shape == "few":  # small integers: rows at the mean, and rows above that fill some below to the last bit
        weights = torch.randint(1, 4, (size,), generator=torch.Generator().manual_seed(size)).double()
    if shape in ("zeros", "few") and size > 1:
        weights[::2] = 0
    thresholds, aliases = reference.alias_table(weights)
    keep = thresholds.double() / 2**32
    mass = keep.index_add(0, aliases, 1 - keep)
    torch.testing.assert_close(mass / size, weights / weights.sum(), rtol=0, atol=2**-31)
    assert not ((weights == 0) & (mass > 0)).any()


def test_row_optimizers_are_their_formulas():
    generator = torch.Generator().manual_seed(0)
    rows, grads = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    moved, state = RULES["row_adagrad"].formula(rows, grads, torch.ones(3).double(), lr=0.1)
    for i in range(3):
        total = 1 + sum(g * g for g in grads[i].tolist()) / 4
        assert state[i].item() == pytest.approx(total)
        for d in range(4):
            expected = rows[i, d].item() - 0.1 * grads[i, d].item() / math.sqrt(total)
            assert moved[i, d].item() == pytest.approx(expected)
