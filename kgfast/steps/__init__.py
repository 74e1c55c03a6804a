"""Training steps without autograd: loss, gradients and row optimizer as few kernels, in buffers kept between steps."""

from kgfast.steps.cuda_graph import CapturedStep
from kgfast.steps.host_tables import HostTablesStep
from kgfast.steps.negative_sampling import NegativeSamplingStep
from kgfast.steps.one_vs_all import OneVsAllStep
from kgfast.steps.step import Step

__all__ = ["CapturedStep", "HostTablesStep", "NegativeSamplingStep", "OneVsAllStep", "Step"]
