// What losses over own and over shared negatives have in common: which negatives count, and their coefficients in the
// end.
#pragma once

#include <limits>

#include "kgfast/device.h"
#include "kgfast/objectives.h"
#include "kgfast/sampling.h"
#include "machine.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

using namespace generic;

// In place of the score of a masked negative; one that has this score has no part either.
constexpr float kMasked = -std::numeric_limits<float>::infinity();

template <int kThreads> KG_DEVICE float sum_block(float x, float* counts) {
  float sum[1] = {x};
  sum_warp(sum);
  if (lane() == 0) counts[warp()] = sum[0];
  sync();
  float total = 0;
  for (int w = 0; w < kThreads / 32; ++w) total += counts[w];
  return total;
}

// marks[n] = kMasked or 0; ids[n] = the negative, the target in place of -1. All are written for every thread of the
// block.
template <int kThreads>
KG_DEVICE void mark_masked(const SampledRows& a, int64_t b, const int64_t* negatives, float* marks, int64_t* ids) {
  for (int64_t n = thread(); n < a.count; n += kThreads) {
    marks[n] = is_masked(a.known, b, a.targets[b], negatives[n]) ? kMasked : 0.f;
    ids[n] = negatives[n] < 0 ? a.targets[b] : negatives[n];
  }
  sync();
}

// What objectives.h says of one objective, for the one that `a` asks for.
KG_DEVICE NegativeSums<float> first_sums(const SampledRows& a, float target) {
  return with_objective(a.objective.objective, [&](auto of) { return no_negatives<decltype(of)>(target); });
}
KG_DEVICE float exponent_of(const SampledRows& a) {
  return with_objective(a.objective.objective, [&](auto of) { return exponent<decltype(of)>(a.objective); });
}
KG_DEVICE Pair<float> add_to(NegativeSums<float>& sums, const SampledRows& a, float target, float score) {
  return with_objective(a.objective.objective,
                        [&](auto of) { return add_negative<decltype(of)>(a.objective, sums, target, score); });
}
KG_DEVICE RowLoss<float> loss_of(const SampledRows& a, int64_t b, float target, const NegativeSums<float>& sums) {
  if (a.weights[b] == 0) return {0, 0, 0, 1};  // no part, were it infinite
  return with_objective(a.objective.objective, [&](auto of) { return decltype(of)::loss(a.objective, target, sums); });
}

// Scores become coefficients: of share times each negative's derivative, were that infinite where the share is 0.
template <class Sim, int kThreads>
KG_DEVICE void finish_coefficients(const SampledRows& a, float share, float largest, float target, float* scores) {
  with_objective(a.objective.objective, [&](auto of) {
    using Of = decltype(of);
    for (int64_t n = thread(); n < a.count; n += kThreads) {
      const float score = scores[n];
      if (score == kMasked || share == 0) {
        scores[n] = 0;
        continue;
      }
      const float p = weight_of<Of>(a.objective, largest, score);
      scores[n] = coefficient<Sim>(share * Of::negative(a.objective, target, score, p).b, score);
    }
  });
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
