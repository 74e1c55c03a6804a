"""Hands the build over to CMake; every compiler flag is in CMakeLists.txt. Neither torch nor a GPU is needed."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeExtension(Extension):
    def __init__(self, name):
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / f"{sys.implementation.cache_tag}"
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DKGFAST_OUTPUT={target}", f"-DKGFAST_VERSION={self.distribution.get_version()}",
            f"-DKGFAST_CUDA={os.environ.get('KGFAST_CUDA', 'AUTO')}",
        ]  # fmt: skip
        # cmake and ninja may be those of this environment, which need not be active
        path = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")
        env = os.environ | {"PATH": path}
        subprocess.run(configure, check=True, env=env)
        subprocess.run(["cmake", "--build", str(build)], check=True, env=env)


packages = find_packages(include=["kgfast", "kgfast.*"])
device = ["kgfast.kernels"] + [f"kgfast.kernels.{name}" for name in find_packages("kernels")]
setup(
    packages=packages + device,
    package_dir={"kgfast": "kgfast", "kgfast.kernels": "kernels"},
    package_data={
        "kgfast": [
            "py.typed",
            "*.pyi",
            "datasets/*/*.txt",
            "datasets/*/*.tsv",
            "pages/templates/*",
            "research/*.yaml",
            "use/server/page/*",
        ]
    },
    ext_modules=[CMakeExtension("kgfast._C")],
    cmdclass={"build_ext": CMakeBuild},
)
