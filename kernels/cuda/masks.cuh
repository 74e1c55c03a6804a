// What losses over own and over shared negatives have in common: which negatives count, and their coefficients in the
// end.
#pragma once

#include "kgfast/device.h"
#include "kgfast/philox.h"
#include "machine.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

using namespace generic;

constexpr float kMasked = -3.0e38f;  // in place of a score

KG_DEVICE bool is_masked(const SampledRows& a, int64_t b, int64_t id) {
  if (id < 0 || id == a.targets[b]) return true;
  if (!a.known.starts) return false;
  const int64_t start = a.known.starts[b];
  return contains(a.known.ids + start, a.known.ends[b] - start, id);
}

template <int kThreads> KG_DEVICE float sum_block(float x, float* counts) {
  float sum[1] = {x};
  sum_warp(sum);
  if (lane() == 0) counts[warp()] = sum[0];
  sync();
  float total = 0;
  for (int w = 0; w < kThreads / 32; ++w) total += counts[w];
  return total;
}

// marks[n] = kMasked or 0; ids[n] = the negative, the target in place of -1. Returns how many count, to every thread of
// the block, all of whose marks are then written.
template <int kThreads>
KG_DEVICE float mark_masked(const SampledRows& a, int64_t b, const int64_t* negatives, float* marks, int64_t* ids,
                            float* counts) {
  float valid = 0;
  for (int64_t n = thread(); n < a.count; n += kThreads) {
    const bool masked = is_masked(a, b, negatives[n]);
    marks[n] = masked ? kMasked : 0.f, valid += masked ? 0.f : 1.f;
    ids[n] = negatives[n] < 0 ? a.targets[b] : negatives[n];
  }
  return sum_block<kThreads>(valid, counts);
}

// Scores become coefficients: share * p_n * slope_n, chained through the similarity.
template <class Sim, int kThreads>
KG_DEVICE void finish_coefficients(const SampledRows& a, float share, float top, float target, float* scores) {
  for (int64_t n = thread(); n < a.count; n += kThreads) {
    const float score = scores[n];
    if (score == kMasked) {
      scores[n] = 0;
      continue;
    }
    const float slope = negative_term(a.objective, target, score).b;
    scores[n] = slope == 0 ? 0.f : chained<Sim>(share * weight_of(a.objective, top, score) * slope, score);
  }
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
