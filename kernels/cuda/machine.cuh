// What the kernels here need of the machine that runs them: threads, barriers, sums over warps, shared memory,
// launches. nvcc gives them the GPU's. A C++ compiler gives them emulate.h, which runs the same kernels on the host,
// thread for thread: that is how they are tested where there is no GPU.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kgfast/core.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define KGFAST_TARGET device
#define KG_DEVICE __device__ __forceinline__
#else
#include "emulate.h"
#define KGFAST_TARGET host
#define KG_DEVICE inline
#endif

namespace kgfast {
namespace KGFAST_TARGET {

struct Grid {
  int64_t x, y = 1;
};
// What a device takes: a larger launch would be cut without a word.
inline void check_grid(const Grid& grid) {
  if (grid.x > INT32_MAX || grid.y > UINT16_MAX)
    throw std::invalid_argument("a launch of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
                                " blocks; a GPU takes 2147483647 x 65535");
}

#if defined(__CUDACC__)

KG_DEVICE int thread() { return int(threadIdx.x); }
KG_DEVICE int64_t block_x() { return int64_t(blockIdx.x); }
KG_DEVICE int block_y() { return int(blockIdx.y); }
KG_DEVICE void sync() { __syncthreads(); }
KG_DEVICE void sync_warp() { __syncwarp(); }
KG_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}
template <int R> KG_DEVICE void sum_warp(float (&x)[R]) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2)
#pragma unroll
    for (int r = 0; r < R; ++r) x[r] += __shfl_xor_sync(0xffffffffu, x[r], mask);
}
KG_DEVICE float max_warp(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
  return x;
}
KG_DEVICE void load_four(const float* from, float* to) {
  const float4 x = *reinterpret_cast<const float4*>(from);
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
KG_DEVICE void store_four(float* to, const float* x) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}
template <class Body> __global__ void __launch_bounds__(Body::kThreads, 1) run(const __grid_constant__ Body body) {
  body();
}

// Runs body() in grid.x * grid.y blocks of Body::kThreads threads on the caller's stream.
template <class Body> void launch(const Body& body, Grid grid, int64_t shared_bytes, void* stream) {
  if (grid.x == 0 || grid.y == 0) return;
  check_grid(grid);
  if (shared_bytes > (48 << 10))
    check(cudaFuncSetAttribute(run<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
  run<Body>
      <<<dim3(unsigned(grid.x), unsigned(grid.y)), Body::kThreads, size_t(shared_bytes), cudaStream_t(stream)>>>(body);
  check(cudaGetLastError());
}

#endif

KG_DEVICE int lane() { return thread() % 32; }
KG_DEVICE int warp() { return thread() / 32; }
template <class T> KG_DEVICE T* shared(int64_t bytes_before = 0) {
  return reinterpret_cast<T*>(shared_memory() + bytes_before);
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
