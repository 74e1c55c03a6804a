// Philox-4x32-10 (Salmon et al. 2011) and the mapping from its words to candidate ids. The same bits on every
// backend; tests/functional/test_sampling.py holds this file against the eager specification.
#pragma once

#include "core.h"

namespace kgfast {
namespace KGFAST_LEVEL {

struct Words {
  uint32_t w[4];
};

KG_HD Words philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1), c3 = uint32_t(p0), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A 32-bit word as an integer below `bound` (< 2^31); the bias is under bound / 2^32.
KG_HD int64_t below(uint32_t word, int64_t bound) { return int64_t((uint64_t(word) * uint64_t(bound)) >> 32); }

// As below(), of bounds < 2^63.
KG_HD int64_t below_wide(uint32_t word, int64_t bound) {
  const uint64_t high = uint64_t(bound) >> 32, low = uint64_t(bound) & 0xffffffffu;
  return int64_t(word * high + (word * low >> 32));
}

// The j-th id that is not among the ascending known ids.
KG_HD int64_t nth_unknown(int64_t j, const int64_t* known, int64_t count) {
  int64_t low = 0, high = count;  // the number of known ids at or below the answer
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (known[middle] - middle <= j) low = middle + 1;
    else high = middle;
  }
  return j + low;
}

// The first place in [low, high) of ascending ids whose id is at least `id`, or high.
KG_HD int64_t lower_bound(const int64_t* ids, int64_t low, int64_t high, int64_t id) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ids[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low;
}
KG_HD bool contains(const int64_t* sorted, int64_t count, int64_t id) {
  const int64_t place = lower_bound(sorted, 0, count, id);
  return place < count && sorted[place] == id;
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
