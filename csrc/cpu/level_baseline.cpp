// CPU kernels for the baseline level (see level-inl.h).
#define KGFAST_LEVEL baseline
#define KGFAST_VECTOR_BYTES 16
#define KGFAST_TILE_ROWS 4

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
#include "level-inl.h"
namespace kgfast {
const Level kBaselineLevel = {"baseline", [] { return true; }, &baseline::Table<float>::kernels};
const Kernels<double>* const kDoubleKernels = &baseline::Table<double>::kernels;
}  // namespace kgfast
