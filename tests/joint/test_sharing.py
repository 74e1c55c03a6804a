"""Hard, soft and routed sharing."""

import pytest
import torch
from joint_text_helpers import Tasks, backbone, texts, tokenizer
from torch.nn import functional as F

from kgfast.errors import ConfigError, KgfastError
from kgfast.joint.model.experts import Experts, Inner, layers_of
from kgfast.joint.model.packed import Packed
from kgfast.joint.model.sharing import MODES, RoutedSharing, Sharing, SoftSharing, layer_parameters, make_sharing


def entity_packed(*ids):
    return texts().packed("entity", torch.tensor(ids))


def some_requests():
    """Two tasks that share a text; one asks for a text twice."""
    return {"mlm": entity_packed(1, 2, 3), "nsp": entity_packed(3, 4, 4, 5), "qa": None}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_states_are_those_of_each_text_alone(mode, kind):
    sharing = make_sharing(mode, backbone(kind), ["mlm", "nsp", "qa"]).eval()
    requests = some_requests()
    encoded = sharing.encode_all(requests)
    assert list(encoded) == ["mlm", "nsp"]
    for task, packed in requests.items():
        if packed is None:
            continue
        assert torch.equal(encoded[task].offsets, packed.offsets)
        for place in range(len(packed)):
            alone = sharing.encode(packed.select(torch.tensor([place])), task)
            start, stop = packed.offsets[place : place + 2].tolist()
            torch.testing.assert_close(encoded[task].hidden[start:stop], alone.hidden, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(encoded[task].pooled[place], alone.pooled[0], rtol=1e-4, atol=1e-5)
    assert sharing.encode_all({"mlm": None, "nsp": Packed.empty()}) == {}
    with pytest.raises(KgfastError, match="no texts are encoded for task 'link'"):
        sharing.encode_all({"link": entity_packed(1)})


@pytest.mark.parametrize("mode, count", [("hard", 5), ("soft", 6), ("token", 5), ("task", 6)])
def test_each_distinct_text_goes_through_once(mode, count, monkeypatch):
    """Five texts are distinct; text 3 is asked for by two tasks, which see it apart where the task matters."""
    options = {"gate": mode} if mode in ("token", "task") else {}
    sharing = make_sharing("routed" if options else mode, backbone(), ["mlm", "nsp", "qa"], **options)
    seen = []
    for one in sharing.backbones:
        states = one.states
        monkeypatch.setattr(one, "states", lambda packed, states=states: seen.append(len(packed)) or states(packed))
    sharing.encode_all(some_requests())
    assert sum(seen) == count
    assert len(seen) == (2 if mode == "soft" else 1), "one pass for all texts, where one Transformer reads them"


def test_gradients_of_shared_texts_add_up():
    sharing = Sharing(backbone(), ["mlm", "nsp", "qa"]).eval()
    encoded = sharing.encode_all(some_requests())
    (encoded["mlm"].pooled.sum() + encoded["nsp"].pooled.square().sum()).backward()
    together = [one.grad.clone() for one in sharing.parameters() if one.grad is not None]
    sharing.zero_grad()
    sharing.encode(entity_packed(1, 2, 3), "mlm").pooled.sum().backward()
    sharing.encode(entity_packed(3, 4, 4, 5), "nsp").pooled.square().sum().backward()
    apart = [one.grad for one in sharing.parameters() if one.grad is not None]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# --- soft


@pytest.mark.parametrize("pull", ["l2", "cosine"])
def test_the_pull_is_the_gradient_of_its_formula(pull):
    sharing = SoftSharing(backbone(hidden=16), ["mlm", "nsp", "qa"], pull=pull, strength=[0.5, 0.0, 2.0, 1.0]).double()
    assert float(sharing.add_pull()) == pytest.approx(0, abs=1e-9), "all are equal at first"
    draws = torch.Generator().manual_seed(0)
    for parameter in sharing.parameters():
        parameter.data += torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * 0.1
        parameter.grad = None
    groups = [layer_parameters(one) for one in sharing.backbones]
    parameters = list(sharing.parameters())
    assert sum(len(group) for group in groups[0]) == len(list(sharing.backbones[0].parameters()))
    expected = 0
    for place, strength in enumerate([0.5, 0.0, 2.0, 1.0]):
        layers = [torch.cat([one.flatten() for one in group[place]]) for group in groups]
        mean = torch.stack(layers).mean(0)
        for layer in layers:
            if pull == "l2":
                expected = expected + strength / 2 * (layer - mean).square().sum()
            else:
                expected = expected + strength * (1 - F.cosine_similarity(layer, mean.detach(), dim=0))
    wanted = torch.autograd.grad(expected, parameters)
    parameters[0].grad = torch.ones_like(parameters[0])  # what a backward pass left there stays
    assert float(sharing.add_pull()) == pytest.approx(float(expected.detach()))
    for place, (parameter, gradient) in enumerate(zip(parameters, wanted, strict=True)):
        found = torch.zeros_like(gradient) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found - int(place == 0), gradient, rtol=1e-8, atol=1e-10)


def test_the_pull_keeps_backbones_near():
    """Two tasks train for 12 steps: the stronger the pull, the nearer their Transformers stay."""
    distances = []
    for strength in (0.0, 1.0, 100.0):
        model = Tasks(["mlm", "nsp"], texts(), sharing="soft", strength=strength, hidden=16)
        model.fit(12, 3e-3)
        first, second = (torch.cat([p.flatten() for p in one.parameters()]) for one in model.backbone.backbones)
        distances.append(float((first - second).detach().norm()))
    assert distances[0] > 1.2 * distances[1] > 1.2 * distances[2] > 0


def test_each_task_has_its_own_backbone():
    sharing = SoftSharing(backbone(), ["mlm", "nsp"])
    assert sharing.backbone_of("mlm") is not sharing.backbone_of("nsp")
    sharing.encode(entity_packed(1), "nsp").pooled.sum().backward()
    assert all(one.grad is None for one in sharing.backbone_of("mlm").parameters())
    hard = Sharing(backbone(), ["mlm", "nsp"])
    assert hard.backbone_of("mlm") is hard.backbone_of("nsp") and hard.add_pull() is None


# --- routed


def experts_of(gate="both", top_k=2, experts=4, tasks=3):
    torch.manual_seed(0)
    made = [Inner(torch.nn.Linear(8, 16), F.gelu, torch.nn.Linear(16, 8), 0.0) for _ in range(experts)]
    return Experts(made, 8, tasks, top_k=top_k, gate=gate).double()


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("gate", ["token", "task", "both"])
def test_experts_are_the_weighted_sum_of_the_best(gate, top_k):
    layer = experts_of(gate, top_k)
    hidden = torch.randn(1, 30, 8, dtype=torch.float64, requires_grad=True)
    tasks = torch.arange(30) % 3
    layer.begin(tasks)
    found = layer(hidden)
    flat = hidden[0]
    logits = torch.zeros(30, 4, dtype=torch.float64)
    if gate != "task":
        logits = logits + layer.gate.token(flat)
    if gate != "token":
        logits = logits + layer.gate.task(tasks)
    chances = logits.float().softmax(1)
    best, chosen = chances.topk(top_k, dim=1)
    if top_k > 1:
        best = best / best.sum(1, keepdim=True)
    every = torch.stack([expert(flat) for expert in layer.experts], 1)
    expected = (every.gather(1, chosen[..., None].expand(-1, -1, 8)) * best.double()[..., None]).sum(1)
    torch.testing.assert_close(found[0], expected)
    gradients = [torch.autograd.grad(one.square().sum(), [hidden, *layer.parameters()], retain_graph=True,
                                     allow_unused=True) for one in (found, expected)]  # fmt: skip
    for one, other in zip(*gradients, strict=True):
        none = one is None or other is None  # an expert that nobody chose
        assert none or torch.allclose(one, other, rtol=1e-6, atol=1e-9)
    counts = torch.zeros(3, 4, dtype=torch.int64)
    counts.index_put_((tasks.repeat_interleave(top_k), chosen.flatten()), torch.tensor(1), accumulate=True)
    assert torch.equal(layer.counts, counts) and counts.sum() == 30 * top_k
    share = counts.sum(0) / counts.sum()
    torch.testing.assert_close(layer.balance, 4 * (share * chances.mean(0)).sum())


def test_balance_is_one_when_all_are_used_alike_and_its_gradient_evens_out():
    layer = experts_of("task", top_k=1, experts=3, tasks=3)
    layer.gate.task.weight.data = torch.eye(3, dtype=torch.float64) * 1e-6
    layer.begin(torch.arange(30) % 3)
    layer(torch.randn(30, 8, dtype=torch.float64))
    assert float(layer.balance) == pytest.approx(1, abs=1e-4)
    layer.gate.task.weight.data = torch.tensor([[2.0, 0, 0]] * 3, dtype=torch.float64)
    layer.begin(torch.arange(30) % 3)
    layer(torch.randn(30, 8, dtype=torch.float64))
    assert float(layer.balance) > 1.5
    layer.balance.backward()
    assert (layer.gate.task.weight.grad[:, 0] > 0).all() and (layer.gate.task.weight.grad[:, 1:] < 0).all()


def test_routes_depend_on_the_tokens():
    """By token: two texts of one task go different ways, and each goes the same way alone."""
    sharing = RoutedSharing(backbone(), ["mlm", "nsp"], gate="token").train()
    ways = []
    for ids in ([1], [2], [1, 2]):
        sharing.reset_utilisation()
        sharing.encode(entity_packed(*ids), "mlm")
        ways.append(torch.stack([router.counts for router in sharing.routed])[:, 0])
    assert not torch.equal(ways[0] / ways[0].sum(-1, keepdim=True), ways[1] / ways[1].sum(-1, keepdim=True))
    assert torch.equal(ways[0] + ways[1], ways[2])
    assert (ways[0] > 0).sum() > 2 * 2, "tokens of one text go more ways than top_k"


@pytest.mark.parametrize("gate, alike", [("token", True), ("task", False), ("both", False)])
def test_routes_depend_on_the_task(gate, alike):
    """By task: one text goes different ways for two tasks, and its states differ; by token alone it does not."""
    sharing = RoutedSharing(backbone(), ["mlm", "nsp"], gate=gate, top_k=1).train()
    states = []
    for task in ("mlm", "nsp"):
        states.append(sharing.encode(entity_packed(1, 2, 3), task).hidden)
    assert torch.equal(*states) == alike
    used = sharing.utilisation()
    assert torch.equal(used[:, 0], used[:, 1]) == alike
    if gate == "task":
        assert ((used == 1).sum(-1) == 1).all(), "all tokens of a task go one way"


def test_the_utilisation_matrix():
    sharing = RoutedSharing(backbone(layers=3), ["mlm", "nsp", "qa"], experts=5, top_k=2).train()
    assert sharing.balance_loss() is None and sharing.utilisation().sum() == 0
    sharing.encode_all(some_requests())
    used = sharing.utilisation()
    assert used.shape == (3, 3, 5) and (used[:, 2] == 0).all()
    torch.testing.assert_close(used[:, :2].sum(-1), torch.ones(3, 2, dtype=torch.float64))
    balance = sharing.balance_loss()
    assert float(balance) == pytest.approx(0.01, abs=0.02) and sharing.balance_loss() is None, "once a pass"
    balance.backward()
    assert all(router.gate.token.weight.grad.abs().sum() > 0 for router in sharing.routed)
    before = sharing.utilisation()
    sharing.eval().encode(entity_packed(9), "qa")
    assert torch.equal(before, sharing.utilisation()), "evaluation is not counted"


def test_routing_begins_as_the_dense_model():
    """All experts are near copies of the layer's own feed-forward part, so a pretrained model stays what it was."""
    dense, routed = backbone().eval(), RoutedSharing(backbone(), ["mlm"]).eval()
    packed = entity_packed(1, 2, 3)
    expected = dense(packed).hidden
    found = routed.encode(packed, "mlm").hidden
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert len(routed.routed) == len(layers_of(dense.model))


def test_routing_survives_activation_checkpointing():
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        sharing = RoutedSharing(backbone(), ["mlm", "nsp"]).train()
        if checkpointed:
            sharing.backbones[0].checkpoint_activations()
        encoded = sharing.encode_all({"mlm": entity_packed(1, 2), "nsp": entity_packed(3)})
        (sum(one.hidden.square().sum() for one in encoded.values()) + sharing.balance_loss()).backward()
        gradients = [one.grad for one in sharing.parameters() if one.grad is not None]
        results.append((sharing.utilisation(), gradients, [router.counts.sum() for router in sharing.routed]))
    assert torch.equal(results[0][0], results[1][0]) and results[0][2] == results[1][2], "counted once"
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other)


# --- all of them


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [("mlm", "nsp"), ("clm",)], ids="+".join)
def test_language_trains_under_every_sharing(mode, names):
    """40 steps: the loss of the language model falls to 0.9 of that of an even guess, log of the number of tokens."""
    kind = "gpt" if "clm" in names else "bert"
    model = Tasks(list(names), texts("wordpiece" if kind == "bert" else "bpe"), kind=kind, sharing=mode, hidden=32)
    losses = model.fit(40, 1e-2)
    guess = torch.tensor(len(tokenizer("wordpiece" if kind == "bert" else "bpe"))).log()
    assert losses[0] < 0.9 * guess
    assert losses.isfinite().all()


def test_states_are_saved_and_found_again():
    for mode in MODES:
        torch.manual_seed(0)
        first = make_sharing(mode, backbone(), ["mlm", "nsp"]).train()
        first.encode(entity_packed(1, 2), "nsp")
        torch.manual_seed(1)
        second = make_sharing(mode, backbone(seed=5), ["mlm", "nsp"])
        second.load_state_dict(first.state_dict())
        packed = entity_packed(4, 5)
        assert torch.equal(first.eval().encode(packed, "nsp").hidden, second.eval().encode(packed, "nsp").hidden)
        if mode == "routed":
            assert torch.equal(first.utilisation(), second.utilisation())


def test_errors():
    for mode, options, words in (
        ("mixed", {}, "hard, soft, routed"), ("hard", {"experts": 4}, "experts=4 has no effect with sharing=hard"),
        ("soft", {"pull": "l1"}, "pull='l1'"), ("soft", {"strength": [1.0]}, "or 4 of them"),
        ("soft", {"strength": -1}, "strength=-1"), ("routed", {"gate": "word"}, "gate='word'"),
        ("routed", {"top_k": 5}, "top_k=5"), ("routed", {"experts": 1}, "experts=1"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            make_sharing(mode, backbone(), ["mlm", "nsp"], **options)
    with pytest.raises(ConfigError, match="each once"):
        Sharing(backbone(), ["mlm", "mlm"])
    routed = RoutedSharing(backbone(packing="padded"), ["mlm"])
    with pytest.raises(ConfigError, match="needs packed texts"):
        routed.encode(entity_packed(1), "mlm")
    with pytest.raises(KgfastError, match="`begin` was not told"):
        experts_of()(torch.zeros(3, 8, dtype=torch.float64))
