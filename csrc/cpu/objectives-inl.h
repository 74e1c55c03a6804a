// The objective of one row whose negatives' scores are all there (csrc/include/kgfast/objectives.h), by vectors of
// lanes. A masked negative has the score -inf, which takes no part in any sum.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// Replaces scores by e^(scale * (s - largest)) and returns (largest, sum). `count` is padded to whole vectors with
// -inf.
template <class F> static Pair<F> exponentials(const F* scores, int64_t count, F scale, F floor, F* out) {
  constexpr int kLanes = Lanes<F>::kCount;
  auto top = splat(floor);
  for (int64_t n = 0; n < count; n += kLanes) top = larger(load(scores + n), top);
  const F largest = largest_lane(top);
  typename Lanes<F>::V sum{};
  for (int64_t n = 0; n < count; n += kLanes) {
    const auto e = exponential((load(scores + n) - largest) * scale);
    store(out + n, e), sum += e;
  }
  return {largest, sum_lanes(sum)};
}

// `negatives` and `gradient` are padded to `padded` entries (-inf), `valid` of which count; returns the loss of the
// row.
template <class Of, class F>
static F row_objective(const ObjectiveOptions<F>& o, F target, const F* negatives, int64_t padded, int64_t valid,
                       F& d_target, F* gradient) {
  using V = typename Lanes<F>::V;
  constexpr int kLanes = Lanes<F>::kCount;
  NegativeSums<F> sums = no_negatives<Of>(target);
  if (valid == 0) {
    for (int64_t n = 0; n < padded; ++n) gradient[n] = 0;
    const RowLoss<F> row = Of::loss(o, target, sums);
    d_target = row.d_target;
    return row.loss;
  }
  const bool alike = exponent<Of>(o) == 0;
  if (alike) {
    sums.weight = F(valid);
  } else {
    const Pair<F> e = exponentials(negatives, padded, exponent<Of>(o), sums.largest, gradient);
    sums.largest = e.a, sums.weight = e.b;
  }
  const F share = Of::kMean ? reciprocal(sums.weight) : F(1);
  if (Of::kMean) sums.weight = 1;  // that of the shares
  V value{}, pull{};
  for (int64_t n = 0; n < padded; n += kLanes) {
    const V p = (alike ? splat(F(1)) : load(gradient + n)) * share;
    const Pair<V> term = Of::negative(o, target, load(negatives + n), p);
    value += term.a, pull += term.b;
    store(gradient + n, term.b);
  }
  sums.value = sum_lanes(value), sums.gradient = sum_lanes(pull);
  const RowLoss<F> row = Of::loss(o, target, sums);
  for (int64_t n = 0; n < padded; n += kLanes) store(gradient + n, load(gradient + n) * row.factor / row.divisor);
  d_target = row.d_target;
  return row.loss;
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
