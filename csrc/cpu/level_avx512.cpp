// CPU kernels for the avx512 level (see level-inl.h).
#define KGFAST_LEVEL avx512
#define KGFAST_VECTOR_BYTES 64
#define KGFAST_TILE_ROWS 12

// Every system header before the target is switched on, so that none of its functions is compiled for it.
#include <sched.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#include "level-inl.h"
namespace kgfast {
static bool supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("fma");
}
const Level kAvx512Level = {"avx512", supported, &avx512::Table<float>::kernels};
}  // namespace kgfast
#pragma GCC pop_options
#else
#include "kgfast/api.h"
namespace kgfast {
const Level kAvx512Level = {"avx512", [] { return false; }, nullptr};
}  // namespace kgfast
#endif
