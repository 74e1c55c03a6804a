"""`help()` suffices: every argument of what people call is described on its own."""

import inspect
import re

import pytest

import kgfast
from kgfast import nn, optim, steps

CALLABLES = {name: one for name in kgfast.__all__ if inspect.isfunction(one := getattr(kgfast, name))}
CALLABLES |= {
    f"{module.__name__}.{name}": one
    for module in (nn, optim, steps)
    for name, one in vars(module).items()
    if inspect.isclass(one) and one.__module__.startswith(module.__name__) and not inspect.isabstract(one)
}
del CALLABLES["kgfast.steps.Step"]  # what the others have in common
CALLABLES |= {name: getattr(kgfast, name) for name in ("LossTerm", "NegativeSampler", "Term")}
METHODS = {
    kgfast.KnownTriples: ("answers", "from_triples", "ids", "lookup", "to"),
    kgfast.KnowledgeGraph: ("from_arrays", "load"),
    nn.KGEModel: ("from_tables", "rank", "score_candidates", "score_triples", "topk"),
    steps.NegativeSamplingStep: ("__call__",),
    steps.HostTablesStep: ("__call__",),
    steps.CapturedStep: ("__call__",),
}
CALLABLES |= {f"{owner.__name__}.{name}": getattr(owner, name) for owner, names in METHODS.items() for name in names}
ENTRY = re.compile(r"^    (\w+): (\S.*(?:\n        +\S.*)*)", re.M)


@pytest.mark.parametrize("name", CALLABLES)
def test_every_argument_is_described(name):
    """In the order of the signature, in a sentence."""
    arguments = [one for one in inspect.signature(CALLABLES[name]).parameters if one != "self"]
    told = (inspect.getdoc(CALLABLES[name]) or "").partition("Args:\n")[2].partition("\n\n")[0]
    described = dict(ENTRY.findall(told))
    assert list(described) == arguments
    assert all(text.endswith(".") for text in described.values()), described


def test_what_is_public_is_here():
    assert {"score_triples", "rank", "load", "register_score", "kgfast.nn.RotatE", "kgfast.optim.RowAdam"} <= set(
        CALLABLES
    )
