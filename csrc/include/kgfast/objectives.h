// Objectives of one row over negatives that come one by one, for host and device: a running sum with its largest
// exponent, so that each negative's row is visited once. A masked negative is not added.
#pragma once

#include <cmath>

#include "core.h"
#include "scores.h"

namespace kgfast {
namespace KGFAST_LEVEL {

// log(1 + e^x) and its derivative, without overflow: (value, slope).
template <class F> KG_HD Pair<F> softplus_pair(F x) {
  const F u = std::exp(-absolute(x));
  return {(x > 0 ? x : F(0)) + std::log1p(u), (x >= 0 ? F(1) : u) / (1 + u)};
}

template <class F> struct ObjectiveOptions {
  Objective objective;
  F margin, temperature;

  // Negatives weigh e^(exponent * score) where this is not 0, else alike.
  KG_HD F exponent() const {
    if (objective == Objective::kSoftmax) return F(1);
    return objective == Objective::kBce ? F(0) : temperature;
  }
};

// A negative's part of the loss before weighting, and its derivative: (value, slope).
template <class F> KG_HD Pair<F> negative_term(const ObjectiveOptions<F>& o, F target, F score) {
  if (o.objective == Objective::kLogistic) return softplus_pair(score + o.margin);
  if (o.objective == Objective::kBce) return softplus_pair(score);
  if (o.objective == Objective::kSoftmax) return {F(0), F(1)};
  const F gap = score + (o.margin - target);
  return gap <= 0 ? Pair<F>{F(0), F(0)} : Pair<F>{gap, F(1)};  // NaN goes through
}

// Sums over negatives n of p_n = e^(exponent * s_n - top), p_n * value and p_n * slope.
template <class F> struct ObjectiveSums {
  F top, weight, value, slope;
};
template <class F> KG_HD ObjectiveSums<F> no_negatives(const ObjectiveOptions<F>& o, F target) {
  return {o.objective == Objective::kSoftmax ? target : F(-3.4e38), F(0), F(0), F(0)};
}
// What sums relative to `top` must be scaled by to be relative to `larger`.
template <class F> KG_HD F rescaling(F top, F larger) { return top == larger ? F(1) : std::exp(top - larger); }

// The factor by which everything summed so far must be scaled before a negative of this score is added.
template <class F> KG_HD F make_room(const ObjectiveOptions<F>& o, ObjectiveSums<F>& sums, F score) {
  const F exponent = o.exponent(), e = exponent * score;
  if (exponent == 0 || !(e > sums.top)) return F(1);
  const F scale = std::exp(sums.top - e);
  sums = {e, sums.weight * scale, sums.value * scale, sums.slope * scale};
  return scale;
}
template <class F> KG_HD F weight_of(const ObjectiveOptions<F>& o, F top, F score) {
  const F exponent = o.exponent();
  return exponent == 0 ? F(1) : std::exp(exponent * score - top);
}
// Adds a negative for which there is room; returns p * slope.
template <class F> KG_HD F add_negative(const ObjectiveOptions<F>& o, ObjectiveSums<F>& sums, F target, F score) {
  const Pair<F> term = negative_term(o, target, score);
  const F p = weight_of(o, sums.top, score), slope = term.b == 0 ? F(0) : p * term.b;
  sums.weight += p, sums.value += term.b == 0 ? F(0) : p * term.a, sums.slope += slope;
  return slope;
}
template <class F> KG_HD ObjectiveSums<F> merge(ObjectiveSums<F> x, ObjectiveSums<F> y) {
  const F top = x.top > y.top ? x.top : y.top, a = rescaling(x.top, top), b = rescaling(y.top, top);
  return {top, x.weight * a + y.weight * b, x.value * a + y.value * b, x.slope * a + y.slope * b};
}

// loss; its derivative by the target's score; what p_n * slope_n must be multiplied by to be that by a negative's
// score.
template <class F> struct Outcome {
  F loss, d_target, share;
};
template <class F> KG_HD Outcome<F> outcome(const ObjectiveOptions<F>& o, F target, const ObjectiveSums<F>& sums,
                                            F valid) {
  if (o.objective == Objective::kSoftmax) {
    const F total = std::exp(target - sums.top) + sums.weight;
    return {sums.top - target + std::log(total), -sums.weight / total, 1 / total};
  }
  if (o.objective == Objective::kBce) {
    const F share = 1 / (1 + valid);
    const Pair<F> own = softplus_pair(-target);
    return {(own.a + sums.value) * share, -own.b * share, share};
  }
  const F total = o.temperature == 0 ? valid : sums.weight;
  const F share = total == 0 ? F(0) : 1 / total;
  if (o.objective == Objective::kMargin) return {share * sums.value, -share * sums.slope, share};
  const Pair<F> own = softplus_pair(-(o.margin + target));
  return {(own.a + share * sums.value) / 2, -own.b / 2, share / 2};
}

// The coefficient of a slope: dL/ds, through the root for L2 (s = -|x - y|, so ds/dx = (x - y) / s).
template <class Sim, class F> KG_HD F chained(F g, F score) {
  if constexpr (Sim::kTag == Similarity::kL2) return score < 0 ? g / score : F(0);
  return g;
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
