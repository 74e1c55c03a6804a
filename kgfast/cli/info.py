"""What kgfast finds on this machine."""

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

from kgfast.core import machine


def collect():
    """Versions, processor, threads, GPUs, backends (name -> None, or why it can't serve); fit for JSON."""
    import torch

    import kgfast
    from kgfast import backends

    found = {name: package_version(name) for name in ("kgfast", "torch", "numpy", "triton")}
    found["python"] = platform.python_version()
    found["system"] = machine.system()
    found["processor"] = machine.processor()
    found["cpu level"] = kgfast.cpu_level()
    found["cpu levels"] = kgfast.cpu_levels()
    found["cores"] = machine.cores()
    found["threads"] = torch.get_num_threads()
    found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found["CUDA kernels"] = cuda_kernels()
    found["ops of impl='cuda'"] = served_by_cuda()
    found["backends"] = backends.status()
    return found


def cuda_kernels():
    """With what they were built, or why they were not."""
    from kgfast import _C

    return f"built by {_C.cuda.about}" if _C.cuda.built else f"not built: {_C.cuda.about}"


def served_by_cuda():
    """Which kernels serve which op: CUDA C++ has the irregular ones."""
    from kgfast import backends

    if not backends.TRITON:
        return "none: Triton is not installed"
    own = vars(type(backends.get("cuda")))
    kernels = [name.lstrip("_") for name in sorted(backends.Backend.__abstractmethods__)]
    by_cuda = [name for name in kernels if name in own or f"_{name}" in own]
    by_triton = [name for name in kernels if name not in by_cuda]
    return f"by CUDA: {', '.join(by_cuda)}; by Triton: {', '.join(by_triton)}"


def package_version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "from source, not installed" if importlib.util.find_spec(name) else "not installed"
