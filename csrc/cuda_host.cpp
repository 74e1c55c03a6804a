// The CUDA kernels' sources for the host (kernels/cuda/emulate.h): what tests run where there is no GPU.
#if defined(__linux__)
#include "../kernels/cuda/pairs.cu"
#include "../kernels/cuda/queries.cu"
#include "../kernels/cuda/rows.cu"
#include "../kernels/cuda/sampled.cu"
#include "../kernels/cuda/sampling.cu"
#include "../kernels/cuda/shared.cu"
#include "../kernels/cuda/sort.cu"
#endif
