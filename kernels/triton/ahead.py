"""Triton kernels compiled ahead of time: made while building (no GPU needed), launched by the driver API.

`build` writes a cubin for each hot signature (hot.py) and architecture, and one manifest. `use(True)` puts `run` in the
place of Triton's launcher for the kernels of this package: a call whose signature and chip are in the manifest is
launched from here on the caller's stream, every other call goes to Triton's compiler as before. `counts` says how many
did which.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import triton

FOLDER = Path(__file__).parent / "cubins"
ARCHITECTURES = (80, 90, 100)
LETTERS = {".u64": "l", ".s64": "l", ".b64": "l", ".u32": "i", ".s32": "i", ".b32": "i", ".f32": "f", ".f64": "d",
           ".u8": "i", ".u16": "i", ".s8": "i", ".s16": "i"}  # fmt: skip
counts: Counter = Counter()  # "ahead" and "jit": launches since `use`


def parameters_of(ptx: str, name: str) -> str:
    """A letter for each parameter of a kernel as compiled: p address, l int64, i int32, f float, d double."""
    head = re.search(rf"\.entry {re.escape(name)}\((.*?)\)", ptx, re.DOTALL)
    if head is None:
        raise ValueError(f"the PTX of {name} has no entry of that name")
    letters = ""
    for line in filter(str.strip, head[1].split("\n")):
        kind = re.search(r"\.param\s+(?:\.align\s+\d+\s+)?(\.\w+)", line)[1]
        letters += "p" if ".ptr" in line else LETTERS[kind]
    return letters


def compile_one(signature, architecture: int) -> tuple[dict, bytes]:
    """(entry of the manifest, cubin)."""
    compiled = signature.compile(architecture)
    metadata = compiled.metadata
    scratch = [getattr(metadata, name, 0) for name in ("global_scratch_size", "profile_scratch_size")]
    if any(scratch) or getattr(metadata, "num_ctas", 1) != 1 or getattr(metadata, "launch_cooperative_grid", False):
        raise ValueError(f"{signature.key} needs scratch memory, clusters or a cooperative grid")
    entry = {
        "name": metadata.name,
        "threads": metadata.num_warps * 32,
        "shared": metadata.shared,
        "parameters": parameters_of(compiled.asm["ptx"], metadata.name),
        "arguments": [name for name, kind in signature.types if kind != "constexpr"],
    }
    return entry, compiled.asm["cubin"]


def compile_all(architecture: int, only: str | None = None) -> dict[str, tuple[dict, bytes]]:
    from .hot import signatures

    return {
        signature.key: compile_one(signature, architecture)
        for signature in signatures(architecture)
        if only is None or only in signature.key
    }


def sources() -> str:
    """A digest of this package's files: kernels of other sources must not be launched."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(folder: Path = FOLDER, architectures=ARCHITECTURES, only: str | None = None) -> dict:
    """Writes sm_<architecture>/<key>.cubin and manifest.json; the manifest comes last, under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"triton": triton.__version__, "sources": sources(), "kernels": {}}
    workers = min(len(architectures), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for architecture, made in zip(architectures, pool.map(compile_all, architectures, [only] * 9), strict=False):
            own = folder / f"sm_{architecture}"
            own.mkdir(exist_ok=True)
            for old in own.glob("*.cubin"):
                old.unlink()
            for key, (entry, cubin) in made.items():
                (own / f"{key}.cubin").write_bytes(cubin)
                manifest["kernels"].setdefault(str(architecture), {})[key] = entry
    temporary = folder / "manifest.json.new"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(folder / "manifest.json")
    return manifest


def manifest(folder: Path = FOLDER) -> dict | None:
    """What was built, or None."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def why_not(folder: Path = FOLDER) -> str | None:
    """None if kernels compiled ahead of time can be launched here, else the reason."""
    from kgfast.backends.cpu import _C

    built = manifest(folder)
    if built is None:
        return "none were built (KGFAST_CUBINS=ON builds them where Triton and torch are installed)"
    if built["sources"] != sources():
        return "they were built from other sources than these: build again"
    return _C.driver.reason() or None


class Launcher:
    """The launches of one kernel: what was seen before goes by a key of types, alignments and constants."""

    def __init__(self, kernel, store):
        self.kernel, self.store, self.seen = kernel, store, {}
        self.jit = type(kernel).run.__get__(kernel)
        self.names = [parameter.name for parameter in kernel.params]
        self.fixed = [bool(parameter.do_not_specialize) for parameter in kernel.params]
        self.constant = [parameter.is_constexpr for parameter in kernel.params]

    def __call__(self, *args, grid, warmup=False, **kwargs):
        if warmup:
            return self.jit(*args, grid=grid, warmup=warmup, **kwargs)
        values = list(args) + [kwargs[name] for name in self.names[len(args) :] if name in kwargs]
        if len(values) != len(self.names):
            values = [self.value_of(i, args, kwargs) for i in range(len(self.names))]
        options = {name: value for name, value in kwargs.items() if name not in self.names}
        key, handed = [tuple(options.items()), torch.cuda.current_device()], []
        for value, fixed, constant in zip(values, self.fixed, self.constant, strict=True):
            if constant or value is None:
                key.append(value)
            elif isinstance(value, torch.Tensor):
                address = value.data_ptr()
                key.append((value.dtype, address % 16 == 0))
                handed.append(address)
            elif type(value) is int:
                wide = not -(2**31) <= value < 2**31
                key.append(wide if fixed else (wide, value == 1, value % 16 == 0))
                if fixed or value != 1:
                    handed.append(value)
            else:
                key.append(type(value))
                handed.append(value)
        key = tuple(key)
        if key not in self.seen:
            self.seen[key] = self.store.find(self.kernel, dict(zip(self.names, values, strict=True)), options)
        found = self.seen[key]
        if found is None:
            counts["jit"] += 1
            return self.jit(*args, grid=grid, warmup=warmup, **kwargs)
        counts["ahead"] += 1
        if callable(grid):
            grid = grid(dict(zip(self.names, values, strict=True)))
        compiled, padding = found
        stream = torch.cuda.current_stream().cuda_stream
        compiled.launch(*grid, *(1,) * (3 - len(grid)), stream, (*handed, *padding))

    def value_of(self, i: int, args, kwargs):
        parameter = self.kernel.params[i]
        return args[i] if i < len(args) else kwargs.get(parameter.name, parameter.default)


class Store:
    """The built kernels of a folder, loaded when they are first launched."""

    def __init__(self, folder: Path = FOLDER):
        self.folder, self.manifest = folder, manifest(folder)

    def find(self, kernel, arguments: dict, options: dict):
        """(loaded kernel, values of Triton's own trailing parameters), or None where this signature was not built."""
        from kgfast.kernels.compile.signatures import describe

        from kgfast.backends.cpu import _C

        major, minor = torch.cuda.get_device_capability()
        architecture = str(10 * major + minor)
        aligned = {name: at_base(value) for name, value in arguments.items()}
        key = describe(kernel, aligned, options).key
        entry = self.manifest["kernels"].get(architecture, {}).get(key)
        if entry is None:
            return None
        image = (self.folder / f"sm_{architecture}" / f"{key}.cubin").read_bytes()
        compiled = _C.driver.Kernel(
            image, entry["name"], entry["parameters"], entry["threads"], entry["shared"], torch.cuda.current_device()
        )
        return compiled, (0,) * (len(entry["parameters"]) - len(entry["arguments"]))


def at_base(value):
    """A tensor that says of its alignment what the address does: the offset of a view is not all of it."""
    if not isinstance(value, torch.Tensor):
        return value
    aligned = value.data_ptr() % 16 == 0
    return torch.empty(2, dtype=value.dtype, device="meta")[0 if aligned else 1 :]


def kernels():
    """Every kernel of this package that is launched by itself."""
    import importlib
    import pkgutil

    package = sys.modules[__package__]
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        one = importlib.import_module(f"{__package__}.{module.name}")
        found |= {id(value): value for value in vars(one).values() if isinstance(value, triton.runtime.JITFunction)}
    return list(found.values())


def use(on: bool, folder: Path = FOLDER) -> None:
    """Launch what was built ahead of time (True), or everything by Triton's compiler (False)."""
    reason = why_not(folder) if on else None
    if reason:
        raise RuntimeError(f"kernels compiled ahead of time can't be launched: {reason}")
    counts.clear()
    store = Store(folder) if on else None
    for kernel in kernels():
        if on:
            kernel.run = Launcher(kernel, store)
        else:
            vars(kernel).pop("run", None)


if __name__ == "__main__":
    made = build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    print(", ".join(f"sm_{one}: {len(entries)} kernels" for one, entries in made["kernels"].items()))
