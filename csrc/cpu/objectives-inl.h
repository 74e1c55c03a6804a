// Objectives of one row: a target's score against the scores of its negatives; value and derivative.
// A masked negative has the score -inf, which takes no part in any sum.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// softplus(x) = log(1 + e^x) and its derivative sigmoid(x), without overflow.
template <class V>
KG_HD V softplus(V x, V& sigmoid) {
  const V u = exponential(-absolute(x)), one = V{} + 1;
  sigmoid = x >= 0 ? one / (one + u) : u / (one + u);
  return (x > 0 ? x : V{}) + log_one_plus(u);
}
template <class F>
KG_HD F softplus_scalar(F x, F& sigmoid) {
  const F u = std::exp(-std::fabs(x));
  sigmoid = (x >= 0 ? F(1) : u) / (1 + u);
  return (x > 0 ? x : F(0)) + std::log1p(u);
}

// Replaces scores by e^(scale * s - largest) and returns (largest, sum). `count` is padded to whole vectors with -inf.
template <class F>
static Pair<F> exponentials(const F* scores, int64_t count, F scale, F floor, F* out) {
  constexpr int kLanes = Lanes<F>::kCount;
  auto top = splat(floor);
  for (int64_t n = 0; n < count; n += kLanes) top = larger(load(scores + n) * scale, top);
  const F largest = largest_lane(top);
  typename Lanes<F>::V sum{};
  for (int64_t n = 0; n < count; n += kLanes) {
    const auto e = exponential(load(scores + n) * scale - largest);
    store(out + n, e), sum += e;
  }
  return {largest, sum_lanes(sum)};
}

// One row: `negatives` and `gradient` are padded to `padded` entries (-inf); returns the loss of the row.
template <class F>
static F row_objective(Objective objective, F margin, F temperature, F target, const F* negatives, int64_t padded,
                       int64_t valid, F& d_target, F* gradient) {
  constexpr int kLanes = Lanes<F>::kCount;
  using V = typename Lanes<F>::V;
  const F lowest = -std::numeric_limits<F>::max();
  V loss{};
  if (objective == Objective::kSoftmax) {
    const Pair<F> e = exponentials(negatives, padded, F(1), target, gradient);
    const F own = std::exp(target - e.a), total = own + e.b;
    for (int64_t n = 0; n < padded; n += kLanes) store(gradient + n, load(gradient + n) / total);
    d_target = -e.b / total;
    return e.a - target + std::log(total);
  }
  if (objective == Objective::kBce) {
    F sigmoid;
    const F share = F(1) / F(1 + valid), own = softplus_scalar(-target, sigmoid);
    d_target = -sigmoid * share;
    for (int64_t n = 0; n < padded; n += kLanes) {
      V slope;
      loss += softplus(load(negatives + n), slope);
      store(gradient + n, slope * share);
    }
    return (own + sum_lanes(loss)) * share;
  }
  // logistic and margin weigh the negatives: softmax(temperature * score), held constant, or equally
  F share = valid > 0 ? F(1) / F(valid) : F(0);
  if (temperature != 0) {
    const F sum = exponentials(negatives, padded, temperature, lowest, gradient).b;
    share = sum > 0 ? 1 / sum : F(0);
  } else {
    for (int64_t n = 0; n < padded; n += kLanes) store(gradient + n, splat(F(1)));
  }
  if (objective == Objective::kLogistic) {
    F sigmoid;
    const F own = softplus_scalar(-(margin + target), sigmoid) / 2;
    d_target = -sigmoid / 2;
    for (int64_t n = 0; n < padded; n += kLanes) {
      V slope;
      const V weight = load(gradient + n) * (share / 2);
      loss += weight * softplus(load(negatives + n) + margin, slope);
      store(gradient + n, weight * slope);
    }
    return own + sum_lanes(loss);
  }
  V pull{};
  for (int64_t n = 0; n < padded; n += kLanes) {
    const V gap = load(negatives + n) + (margin - target);
    const V weight = gap <= 0 ? V{} : load(gradient + n) * share;  // NaN goes through
    loss += gap <= 0 ? V{} : weight * gap;
    pull += weight;
    store(gradient + n, weight);
  }
  d_target = -sum_lanes(pull);
  return sum_lanes(loss);
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
