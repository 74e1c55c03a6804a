// What is made of a query's scores, for host and device: the target against sampled negatives, or the answers against
// all candidates. A new objective is a struct here and its entry in the list. F is a scalar, V a scalar or a vector of
// lanes.
#pragma once

#include <cmath>

#include "core.h"
#include "scores.h"

#define KGFAST_OBJECTIVES(X) X(logistic, Logistic) X(softmax, Softmax) X(bce, BinaryCrossEntropy) X(margin, Margin)

namespace kgfast {

enum class Objective : int { KGFAST_OBJECTIVES(KGFAST_ENUMERATOR) };

template <class F> struct ObjectiveOptions {
  Objective objective;
  F margin, temperature;
};

namespace KGFAST_LEVEL {

// Scalar forms; csrc/cpu/simd.h has the same names for vectors of lanes.
KG_HD float exponential(float x) { return std::exp(x); }
KG_HD double exponential(double x) { return std::exp(x); }
KG_HD float log_one_plus(float x) { return std::log1p(x); }
KG_HD double log_one_plus(double x) { return std::log1p(x); }

// (log(1 + e^x), its derivative), without overflow.
template <class V> KG_HD Pair<V> softplus(V x) {
  const V u = exponential(-absolute(x)), one = V{} + 1;
  return {(x > 0 ? x : V{}) + log_one_plus(u), (x >= 0 ? one : u) / (one + u)};
}
template <class F> constexpr F kLowest = F(-3.4028234663852886e38);  // the lowest finite number
template <> constexpr double kLowest<double> = -1.7976931348623157e308;

// 1 / x, and 0 of 0.
template <class F> KG_HD F reciprocal(F x) { return x > 0 ? 1 / x : F(0); }

// Sums over the negatives n that count: of their weights p_n = e^(exponent * (s_n - largest)), or 1 where the exponent
// is 0, and of what negative() gives. The difference comes first: it is exact where it matters, whatever the exponent,
// so that the largest weight is 1; a product would be rounded by more than e's argument bears, or not at all by an FMA.
// A negative at -inf weighs 0.
template <class F> struct NegativeSums {
  F largest, weight, value, gradient;
};

// A row's loss, its derivative by the target's score, and what negative()'s derivatives must be multiplied and divided
// by to be the loss's.
template <class F> struct RowLoss {
  F loss, d_target, factor, divisor;
};

// - negative(): p times a negative's part of the loss, and the derivative of that by its score.
// - loss(): what the sums give.
// - kCompetes: the target competes with the negatives, so exponents are the scores.
// - kMean: the loss is of the negatives' mean, each weighing e^(temperature * score), held constant.
// An objective over all candidates (kOverCandidates) has also:
// - label(): what an answer weighs.
// - candidate(): a score's part of the sum over candidates, and its derivative but for what all share.
// - candidate_loss(): what that sum gives, `right` being the sum of scores times labels. Where answers compete, a query
//   without one does not count; where not, the loss is the mean of the `count` candidates that do.

struct Logistic {  // (-log sigma(margin + t) - sum_n w_n log sigma(-margin - s_n)) / 2
  static constexpr bool kCompetes = false, kMean = true, kOverCandidates = false;
  template <class F, class V> static KG_HD Pair<V> negative(const ObjectiveOptions<F>& o, F, V score, V p) {
    const Pair<V> term = softplus(score + o.margin);
    return {p * term.a, p * term.b};
  }
  template <class F> static KG_HD RowLoss<F> loss(const ObjectiveOptions<F>& o, F target, const NegativeSums<F>& sums) {
    const F share = reciprocal(sums.weight);
    const Pair<F> own = softplus(-(o.margin + target));
    return {(own.a + share * sums.value) / 2, -own.b / 2, share / 2, F(1)};
  }
};

struct Softmax {  // log(e^t + sum_n e^(s_n)) - t | log(sum_c e^(s_c)) - the answers' mean score
  static constexpr bool kCompetes = true, kMean = false, kOverCandidates = true;
  template <class F, class V> static KG_HD Pair<V> negative(const ObjectiveOptions<F>&, F, V, V p) { return {V{}, p}; }
  template <class F> static KG_HD RowLoss<F> loss(const ObjectiveOptions<F>&, F target, const NegativeSums<F>& sums) {
    if (sums.weight == 0 && target == target) return {F(0), -F(0), F(1), F(1)};  // without rivals, were it infinite
    const F total = std::exp(target - sums.largest) + sums.weight;
    return {sums.largest - target + std::log(total), -sums.weight / total, F(1), total};
  }

  template <class F> static KG_HD F label(F smoothing, int64_t answers) { return (1 - smoothing) / F(answers); }
  template <class F, class V> static KG_HD Pair<V> candidate(V score, F largest) {
    const V e = exponential(score - largest);
    return {e, e};
  }
  template <class F> static KG_HD F candidate_loss(F largest, F total, F right, F) {
    return largest - right + std::log(total);
  }
};

struct BinaryCrossEntropy {  // (-log sigma(t) - sum_n log sigma(-s_n)) / (1 + number of n), or so over all candidates
  static constexpr bool kCompetes = false, kMean = false, kOverCandidates = true;
  template <class F, class V> static KG_HD Pair<V> negative(const ObjectiveOptions<F>&, F, V score, V) {
    return softplus(score);
  }
  template <class F> static KG_HD RowLoss<F> loss(const ObjectiveOptions<F>&, F target, const NegativeSums<F>& sums) {
    const F share = 1 / (1 + sums.weight);
    const Pair<F> own = softplus(-target);
    return {(own.a + sums.value) * share, -own.b * share, share, F(1)};
  }

  template <class F> static KG_HD F label(F smoothing, int64_t) { return 1 - smoothing; }
  template <class F, class V> static KG_HD Pair<V> candidate(V score, F) { return softplus(score); }
  template <class F> static KG_HD F candidate_loss(F, F total, F right, F count) { return (total - right) / count; }
};

struct Margin {  // sum_n w_n max(0, margin - t + s_n)
  static constexpr bool kCompetes = false, kMean = true, kOverCandidates = false;
  template <class F, class V> static KG_HD Pair<V> negative(const ObjectiveOptions<F>& o, F target, V score, V p) {
    const V gap = score + (o.margin - target), zero{};
    auto out = gap <= 0;  // NaN goes through
    if constexpr (sizeof(V) != sizeof(F)) out |= score < kLowest<F>;  // masked lanes, whatever the margin
    const V weight = out ? zero : p;
    return {out ? zero : weight * gap, weight};
  }
  template <class F> static KG_HD RowLoss<F> loss(const ObjectiveOptions<F>&, F target, const NegativeSums<F>& sums) {
    const F share = reciprocal(sums.weight);
    // where target and negatives are all at -inf nothing is known, least of all that the loss is 0
    const F loss = target < kLowest<F> && sums.weight > 0 && sums.value == 0 ? F(NAN) : share * sums.value;
    return {loss, -share * sums.gradient, share, F(1)};
  }
};

template <class Call> KG_CALLS auto with_objective(Objective objective, Call call) {
  switch (objective) {
#define KGFAST_CASE(word, Type) \
  case Objective::k##Type: return call(Type{});
    KGFAST_OBJECTIVES(KGFAST_CASE)
#undef KGFAST_CASE
  }
  __builtin_unreachable();  // codes are checked before they come here
}

template <class Call> KG_CALLS void with_candidate_objective(Objective objective, Call call) {
  with_objective(objective, [&](auto objective) {
    if constexpr (decltype(objective)::kOverCandidates) call(objective);
  });
}

template <class Of, class F> KG_HD F exponent(const ObjectiveOptions<F>& o) {
  return Of::kCompetes ? F(1) : (Of::kMean ? o.temperature : F(0));
}
template <class Of, class F> KG_HD NegativeSums<F> no_negatives(F target) {
  return {Of::kCompetes ? target : F(kLowest<F>), F(0), F(0), F(0)};
}

// ---- negatives that come one by one, so that each one's row is visited once ---------------------------------

// What sums relative to the score `largest` must be scaled by to be relative to a larger one.
template <class F> KG_HD F rescaling(F exponent, F largest, F larger) {
  return largest == larger ? F(1) : std::exp(exponent * (largest - larger));
}
template <class Of, class F> KG_HD F weight_of(const ObjectiveOptions<F>& o, F largest, F score) {
  return exponent<Of>(o) == 0 ? F(1) : std::exp(exponent<Of>(o) * (score - largest));
}
// Adds a negative; returns what everything summed so far had to be scaled by for that, and the derivative by its score.
template <class Of, class F> KG_HD Pair<F> add_negative(const ObjectiveOptions<F>& o, NegativeSums<F>& sums, F target,
                                                        F score) {
  F scale = 1;
  if (exponent<Of>(o) != 0 && score > sums.largest) {
    scale = std::exp(exponent<Of>(o) * (sums.largest - score));
    sums = {score, sums.weight * scale, sums.value * scale, sums.gradient * scale};
  }
  const F p = weight_of<Of>(o, sums.largest, score);
  const Pair<F> term = Of::negative(o, target, score, p);
  sums.weight += p, sums.value += term.a, sums.gradient += term.b;
  return {scale, term.b};
}
template <class F> KG_HD NegativeSums<F> merge(F exponent, NegativeSums<F> x, NegativeSums<F> y) {
  const F largest = x.largest > y.largest ? x.largest : y.largest;
  const F a = rescaling(exponent, x.largest, largest), b = rescaling(exponent, y.largest, largest);
  return {largest, x.weight * a + y.weight * b, x.value * a + y.value * b, x.gradient * a + y.gradient * b};
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
