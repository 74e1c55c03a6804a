// What bindings.cpp adds to kgfast._C for GPUs: the CUDA kernels.
#pragma once

#include <pybind11/pybind11.h>

void bind_cuda(pybind11::module_& parent);
