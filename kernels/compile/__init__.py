"""Triton kernels compiled without a GPU: which signatures there are, and what the compiler makes of them."""
