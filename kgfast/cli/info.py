"""What kgfast finds on this machine."""

import importlib.util
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

from kgfast.core import machine

FOR_DEVELOPERS = ("test", "lint", "docs", "types", "all")


def collect():
    """Versions, processor, threads, GPUs, backends (name -> None, or why it can't serve), extras (name -> packages that
    lack); fit for JSON."""
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
    found["extras"] = {name: [one for one in packages if not installed(one)] for name, packages in extras().items()}
    return found


def extras() -> dict[str, list[str]]:
    """The packages that each extra brings, by its name, as the installed kgfast says."""
    try:
        wanted = requires("kgfast") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for line in wanted:
        match = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?.*extra == ['\"](\w+)['\"]", line)
        if match and match[3] not in FOR_DEVELOPERS:
            found.setdefault(match[3], []).extend(match[2].split(",") if match[1] == "kgfast" else [match[1]])
    # an extra may name others
    return {
        name: sorted({part for one in packages for part in found.get(one, [one])}) for name, packages in found.items()
    }


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


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
