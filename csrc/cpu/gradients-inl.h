// Both gradients of a matrix of scores. Dot products: two matrix products. Distances: the gradient by one row of
// a pair is, with its sign turned, that by the other, so one visit of a vector of d serves both.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// The gradient of a pair at a vector of d, real or complex.
template <class Sim, class F> struct GradientVector {
  static constexpr int kLanes = Lanes<F>::kCount, kParts = Sim::kComplex ? 2 : 1;
  static constexpr int kSize = kParts * kLanes;
  using V = typename Lanes<F>::V;
  using Type = std::conditional_t<kParts == 2, Pair<V>, V>;

  static KG_HD Type get(const F* p) {
    if constexpr (kParts == 2) return {load(p), load(p + kLanes)};
    else return load(p);
  }
  static KG_HD void put(F* p, Type x) {
    if constexpr (kParts == 2) store(p, x.a), store(p + kLanes, x.b);
    else store(p, x);
  }
  static KG_HD Type plus(Type x, Type y) {
    if constexpr (kParts == 2) return {x.a + y.a, x.b + y.b};
    else if constexpr (std::is_same_v<Sim, L1>) return KGFAST_LEVEL::plus(x, y);
    else return x + y;
  }
  static KG_HD Type minus(Type x, Type y) {
    if constexpr (kParts == 2) return {x.a - y.a, x.b - y.b};
    else if constexpr (std::is_same_v<Sim, L1>) return KGFAST_LEVEL::minus(x, y);
    else return x - y;
  }
};

// For `kRows` rows of x and `count` rows of y, one vector of d each: dx[m] += g[m][k] ds/dx at (x_m, y_k), dy[k] -=
// the same.
template <class Sim, int kRows, class F>
static void distance_block(const F* const* g, const F* x, const F* y, int64_t count, F* dx, F* dy) {
  using S = GradientVector<Sim, F>;
  typename S::Type own[kRows], sum[kRows];
  for (int m = 0; m < kRows; ++m) own[m] = S::get(x + m * S::kSize), sum[m] = S::get(dx + m * S::kSize);
  for (int64_t k = 0; k < count; ++k) {
    const typename S::Type other = S::get(y + k * S::kSize);
    typename S::Type back = S::get(dy + k * S::kSize);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const typename S::Type gradient = Sim::gradient(splat(g[m][k]), own[m], other);
      sum[m] = S::plus(sum[m], gradient), back = S::minus(back, gradient);
    }
    S::put(dy + k * S::kSize, back);
  }
  for (int m = 0; m < kRows; ++m) S::put(dx + m * S::kSize, sum[m]);
}

// One vector of d of all rows, in a buffer of size().
template <class Sim, class F> struct DistanceLane {
  using S = GradientVector<Sim, F>;
  static constexpr int kRows = S::kParts == 2 ? 4 : 6, kLanes = S::kLanes;
  static constexpr int64_t kBlock = 256;

  static int64_t lanes(int64_t dim) { return (dim / S::kParts + kLanes - 1) / kLanes; }
  static int64_t size(int64_t x_count) {
    return 2 * ((x_count + kRows - 1) / kRows * kRows + kBlock) * S::kSize + kBlock;
  }

  static void add(int64_t lane, const F* g, int64_t ld, RowView<F> x, int64_t x_count, RowView<F> y, int64_t y_count,
                  int64_t dim, F* buffer, F* dx, F* dy) {
    const int64_t length = dim / S::kParts, padded = (x_count + kRows - 1) / kRows * kRows;
    F *xs = buffer, *dxs = xs + padded * S::kSize, *ys = dxs + padded * S::kSize, *dys = ys + kBlock * S::kSize;
    F* zeros = dys + kBlock * S::kSize;  // stands in for weights of rows past the end
    for (int64_t k = 0; k < kBlock; ++k) zeros[k] = 0;
    const int64_t d = lane * kLanes, n = length - d < kLanes ? length - d : kLanes;
    auto gather = [&](const F* row, F* out) {
      for (int part = 0; part < S::kParts; ++part) store(out + part * kLanes, load_part(row + part * length + d, n));
    };
    auto scatter = [&](const F* in, F* row) {
      for (int part = 0; part < S::kParts; ++part) {
        F* to = row + part * length + d;
        store_part(to, load_part(to, n) + load(in + part * kLanes), n);
      }
    };
    for (int64_t i = 0; i < padded; ++i) gather(x(i < x_count ? i : x_count - 1), xs + i * S::kSize);
    for (int64_t i = 0; i < padded * S::kSize; ++i) dxs[i] = 0;
    for (int64_t k0 = 0; k0 < y_count; k0 += kBlock) {
      const int64_t count = y_count - k0 < kBlock ? y_count - k0 : kBlock;
      for (int64_t k = 0; k < count; ++k) gather(y(k0 + k), ys + k * S::kSize);
      for (int64_t k = 0; k < count * S::kSize; ++k) dys[k] = 0;
      for (int64_t i = 0; i < x_count; i += kRows) {
        const F* weights[kRows];
        for (int m = 0; m < kRows; ++m) weights[m] = i + m < x_count ? g + (i + m) * ld + k0 : zeros;
        distance_block<Sim, kRows>(weights, xs + i * S::kSize, ys, count, dxs + i * S::kSize, dys);
      }
      for (int64_t k = 0; k < count; ++k) scatter(dys + k * S::kSize, dy + (k0 + k) * dim);
    }
    for (int64_t i = 0; i < x_count; ++i) scatter(dxs + i * S::kSize, dx + i * dim);
  }
};

// A worker takes a vector of d of all rows; the order of sums is the same whatever the number of workers.
template <class Sim, class F>
static void distance_gradients(const F* g, int64_t ld, RowView<F> x, int64_t x_count, RowView<F> y, int64_t y_count,
                               int64_t dim, int threads, F* dx, F* dy) {
  using Lane = DistanceLane<Sim, F>;
  const int64_t own = Lane::size(x_count);
  F* buffers = scratch<F>(kWeights, own * threads);
  parallel_for(Lane::lanes(dim), 1, threads, [&](int64_t lane, int64_t, int worker) {
    Lane::add(lane, g, ld, x, x_count, y, y_count, dim, buffers + own * worker, dx, dy);
  });
}

// dx[i] += sum_k g[i * ld + k] ds/dx at (x(i), y(k)), and dy[k] += sum_i g[i * ld + k] ds/dy.
template <class Sim, class F>
static void add_gradients(const F* g, int64_t ld, RowView<F> x, int64_t x_count, RowView<F> y, int64_t y_count,
                          int64_t dim, int threads, F* dx, F* dy) {
  if (x_count == 0 || y_count == 0) return;
  if constexpr (Sim::kMatrixProduct) {
    product_matrix(g, ld, 1, x_count, y, y_count, dim, threads, dx);
    product_matrix(g, 1, ld, y_count, x, x_count, dim, threads, dy);
  } else {
    distance_gradients<Sim>(g, ld, x, x_count, y, y_count, dim, threads, dx, dy);
  }
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
