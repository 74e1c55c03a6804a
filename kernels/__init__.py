"""Device code: kernels/cuda (CUDA C++) and kernels/triton (Triton), installed as kgfast.kernels."""
