// Vocabulary shared by host and device code: qualifiers, enums, and the one list of scores.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define KG_HD __host__ __device__ __forceinline__
#else
#define KG_HD inline __attribute__((always_inline))
#endif

// Everything that is compiled once per instruction set lives in a namespace of its own, so that the linker
// can never keep an AVX-512 body for a function that baseline code calls.
#ifndef KGFAST_LEVEL
#define KGFAST_LEVEL generic
#endif

namespace kgfast {

enum class Side : int { kTail = 0, kHead = 1 };
enum class Similarity : int { kDot = 0, kL1 = 1, kL2 = 2, kModulus = 3 };
enum class Objective : int { kLogistic = 0, kSoftmax = 1, kBce = 2, kMargin = 3 };
enum class Ties : int { kOptimistic = 0, kPessimistic = 1, kRealistic = 2 };
enum class Update : int { kDense = 0, kSparse = 1, kSgd = 2, kAdagrad = 3, kRowAdagrad = 4, kAdam = 5 };
enum class Regularizer : int { kNone = 0, kN3 = 1, kL2 = 2 };
enum class Dtype : int { kFloat32 = 0, kFloat64 = 1 };

}  // namespace kgfast

// name, query operator (scores.h), similarity. Bindings, dispatch, tests and benchmarks iterate over this list.
#define KGFAST_SCORES(X)      \
  X(transe_l1, TransE, kL1)   \
  X(transe_l2, TransE, kL2)   \
  X(distmult, DistMult, kDot) \
  X(complex, ComplEx, kDot)   \
  X(rotate, RotatE, kModulus) \
  X(simple, SimplE, kDot)     \
  X(cp, CP, kDot)             \
  X(rescal, Rescal, kDot)
