// Vocabulary shared by host and device code: qualifiers, codes and the few structs that all kernels take.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define KG_HD __host__ __device__ __forceinline__
#define KG_CALLS __device__ __forceinline__  // calls what it is given: code of kernels, where there is a device
#else
#define KG_HD inline __attribute__((always_inline))
#define KG_CALLS KG_HD
#endif

// Everything that is compiled once per instruction set lives in a namespace of its own, so that the linker
// can never keep an AVX-512 body for a function that baseline code calls.
#ifndef KGFAST_LEVEL
#define KGFAST_LEVEL generic
#endif

// Codes are made of lists X(word, Type, ..) in the order of their numbers: kgfast/registry.py knows the words, an
// enumeration has a kType for each. A list stands with the structs that it lists: similarities and scores in scores.h,
// objectives in objectives.h, updates in updates.h, regularizers in regularizers.h; sides are alone.
#define KGFAST_ENUMERATOR(word, Type, ...) k##Type,
#define KGFAST_WORD(word, ...) #word,

#define KGFAST_SIDES(X) X(tail, Tail) X(head, Head)

namespace kgfast {

enum class Side : int { KGFAST_SIDES(KGFAST_ENUMERATOR) };
enum class Dtype : int { kFloat32 = 0, kFloat64 = 1 };

// Ascending ids of query b: ids[starts[b] .. ends[b]); all null where there are none.
struct IdRanges {
  const int64_t *starts, *ends, *ids;
};

constexpr int kMostExtras = 4;  // sources of gradient rows beside a step's pairs
constexpr int kMostSources = 2 * (1 + kMostExtras);  // of ids, for two tables

namespace KGFAST_LEVEL {

template <class F> struct Pair {
  F a, b;
};

// The known entity of a query is the head when tails are ranked, and the tail when heads are.
KG_HD int64_t anchor_of(const int64_t* triple, Side side) { return side == Side::kTail ? triple[0] : triple[2]; }

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
