// What bindings.cpp adds to kgfast._C for GPUs: the CUDA kernels, and launches of kernels that were compiled ahead of time.
#pragma once

#include <pybind11/pybind11.h>

void bind_cuda(pybind11::module_& parent);
void bind_driver(pybind11::module_& parent);
