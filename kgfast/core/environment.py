"""What the environment asks for, read once when kgfast is imported; docs/environment.md lists every variable."""

import os

# Triton reads it when kernels are defined: its interpreter runs them on the CPU, slowly, to check them
TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# the CUDA kernels run on the CPU, thread by thread, to check them
CUDA_ON_HOST = os.environ.get("KGFAST_CUDA_HOST") == "1"
