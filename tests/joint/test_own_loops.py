"""The examples of loops that are other people's: they run, and learn what they say."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest


def example(name):
    pytest.importorskip("accelerate", reason="the loop is of the package accelerate, or uses it")
    spec = spec_from_file_location(name, Path(__file__).parents[2] / "examples" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_huggingface_trainer(tmp_path):
    """With fewer steps than the example says, and so with less to reach."""
    pytest.importorskip("transformers")
    trained = example("huggingface_trainer").main(steps=60, out=str(tmp_path), use_cpu=True, disable_tqdm=True)
    assert trained["losses"][-1] < trained["losses"][0] - 2, trained
    assert trained["mrr"] > 0.3, trained


@pytest.mark.slow
def test_accelerate_loop():
    assert example("accelerate_loop").main(cpu=True)["mrr"] > 0.5
