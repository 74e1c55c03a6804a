// Two primitives on which all work with independent rows stands: the scores of one vector x against rows y_k,
// and the weighted sum of gradients, sum_k c_k d s(x, y_k) / dx. Rows are read from the table where they lie.
// Each score is one chain of lanes in the order of d, whatever its place among the rows: permuting changes no bit.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

template <class Sim, class F>
KG_HD auto coordinate(const F* x, int64_t d, int64_t half) {
  if constexpr (Sim::kComplex) return Pair<typename Lanes<F>::V>{load(x + d), load(x + d + half)};
  else return load(x + d);
}
template <class Sim, class F>
KG_HD auto coordinate_part(const F* x, int64_t d, int64_t half, int64_t n) {
  if constexpr (Sim::kComplex) return Pair<typename Lanes<F>::V>{load_part(x + d, n), load_part(x + d + half, n)};
  else return load_part(x + d, n);
}

// `next` (or null): rows wanted soon, of which each step along d asks for the same line.
template <class Sim, int R, class F>
KG_HD void score_rows(const F* x, const F* const* rows, const F* const* next, int64_t dim, F* out) {
  constexpr int kLanes = Lanes<F>::kCount;
  const int64_t length = Sim::kComplex ? dim / 2 : dim, half = dim / 2;
  typename Lanes<F>::V sum[R] = {};
  int64_t d = 0;
  for (; d + kLanes <= length; d += kLanes) {
    const auto u = coordinate<Sim>(x, d, half);
    if (next) {
#pragma GCC unroll 8
      for (int k = 0; k < R; ++k) {
        __builtin_prefetch(next[k] + d);
        if (Sim::kComplex) __builtin_prefetch(next[k] + d + half);
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < R; ++k) sum[k] = Sim::accumulate(sum[k], u, coordinate<Sim>(rows[k], d, half));
  }
  if (d < length) {
    const auto u = coordinate_part<Sim>(x, d, half, length - d);
    for (int k = 0; k < R; ++k) sum[k] = Sim::accumulate(sum[k], u, coordinate_part<Sim>(rows[k], d, half, length - d));
  }
  for (int k = 0; k < R; ++k) out[k] = Sim::score(sum_lanes(sum[k]));
}

template <class Sim, class F>
static void score_pairs(const F* x, const F* const* rows, int64_t count, int64_t dim, F* out) {
  int64_t k = 0;
  for (; k + 8 <= count; k += 8)
    score_rows<Sim, 8>(x, rows + k, k + 16 <= count ? rows + k + 8 : nullptr, dim, out + k);
  for (; k < count; ++k) score_rows<Sim, 1, F>(x, rows + k, nullptr, dim, out + k);
}

// What was at `out` stays in the sum (kAdd) or does not.
template <bool kAdd, class F> KG_HD void store_sum(F* out, typename Lanes<F>::V sum) {
  store(out, kAdd ? load(out) + sum : sum);
}

template <class Sim, bool kAdd, int V, class F>
KG_HD void gradient_block(const F* x, const F* const* rows, const F* coefficients, int64_t count, int64_t half,
                          int64_t d, F* out) {
  constexpr int kLanes = Lanes<F>::kCount;
  using Lane = typename Lanes<F>::V;
  if constexpr (Sim::kComplex) {
    Pair<Lane> sum[V] = {}, u[V];
    for (int v = 0; v < V; ++v) u[v] = coordinate<Sim>(x, d + v * kLanes, half);
    for (int64_t k = 0; k < count; ++k) {
      const Lane c = splat(coefficients[k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        sum[v] = Sim::add_gradient(sum[v], c, u[v], coordinate<Sim>(rows[k], d + v * kLanes, half));
    }
    for (int v = 0; v < V; ++v) {
      store_sum<kAdd>(out + d + v * kLanes, sum[v].a);
      store_sum<kAdd>(out + d + half + v * kLanes, sum[v].b);
    }
  } else {
    Lane sum[V] = {}, u[V];
    for (int v = 0; v < V; ++v) u[v] = load(x + d + v * kLanes);
    for (int64_t k = 0; k < count; ++k) {
      const Lane c = splat(coefficients[k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[v] = Sim::add_gradient(sum[v], c, u[v], load(rows[k] + d + v * kLanes));
    }
    for (int v = 0; v < V; ++v) store_sum<kAdd>(out + d + v * kLanes, sum[v]);
  }
}

template <class Sim, bool kAdd, class F>
static void gradient_tail(const F* x, const F* const* rows, const F* coefficients, int64_t count, int64_t half,
                          int64_t d, int64_t n, F* out) {
  using Lane = typename Lanes<F>::V;
  const auto u = coordinate_part<Sim>(x, d, half, n);
  if constexpr (Sim::kComplex) {
    Pair<Lane> sum{};
    for (int64_t k = 0; k < count; ++k)
      sum = Sim::add_gradient(sum, splat(coefficients[k]), u, coordinate_part<Sim>(rows[k], d, half, n));
    store_part(out + d, kAdd ? load_part(out + d, n) + sum.a : sum.a, n);
    store_part(out + d + half, kAdd ? load_part(out + d + half, n) + sum.b : sum.b, n);
  } else {
    Lane sum{};
    for (int64_t k = 0; k < count; ++k)
      sum = Sim::add_gradient(sum, splat(coefficients[k]), u, coordinate_part<Sim>(rows[k], d, half, n));
    store_part(out + d, kAdd ? load_part(out + d, n) + sum : sum, n);
  }
}

// out += sum_k coefficients[k] * ds/dx at (x, rows[k]); not kAdd: out = that
template <class Sim, bool kAdd = true, class F>
static void add_row_gradients(const F* x, const F* const* rows, const F* coefficients, int64_t count, int64_t dim,
                              F* out) {
  constexpr int kLanes = Lanes<F>::kCount;
  const int64_t length = Sim::kComplex ? dim / 2 : dim, half = dim / 2;
  constexpr int kBlock = Sim::kComplex ? 4 : 8;
  int64_t d = 0;
  for (; d + kBlock * kLanes <= length; d += kBlock * kLanes)
    gradient_block<Sim, kAdd, kBlock>(x, rows, coefficients, count, half, d, out);
  for (; d + 2 * kLanes <= length; d += 2 * kLanes)
    gradient_block<Sim, kAdd, 2>(x, rows, coefficients, count, half, d, out);
  for (; d + kLanes <= length; d += kLanes) gradient_block<Sim, kAdd, 1>(x, rows, coefficients, count, half, d, out);
  if (d < length) gradient_tail<Sim, kAdd>(x, rows, coefficients, count, half, d, length - d, out);
}

// scores[b, k] = s(query b, table[ids[b, k]])
template <class Sim, class F>
static void pair_scores(const F* query, const F* table, const int64_t* ids, int64_t batch, int64_t width, int64_t dim,
                        int threads, F* scores) {
  const F** pointers = scratch<const F*>(kPointers, width * threads);
  parallel_for(batch, width > 64 ? 4 : 64, threads, [&](int64_t begin, int64_t end, int worker) {
    const F** rows = pointers + width * worker;
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t k = 0; k < width; ++k) rows[k] = table + ids[b * width + k] * dim;
      score_pairs<Sim>(query + b * dim, rows, width, dim, scores + b * width);
    }
  });
}

// coefficients = those of g; d_query[b] = sum_k coefficients[b, k] ds/dquery at (query b, row k)
template <class Sim, class F>
static void pair_query_gradient(const F* query, const F* table, const int64_t* ids, const F* scores, const F* g,
                                int64_t batch, int64_t width, int64_t dim, int threads, F* coefficients, F* d_query) {
  const F** pointers = scratch<const F*>(kPointers, width * threads);
  parallel_for(batch, width > 64 ? 4 : 64, threads, [&](int64_t begin, int64_t end, int worker) {
    const F** rows = pointers + width * worker;
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t k = 0; k < width; ++k) {
        rows[k] = table + ids[b * width + k] * dim;
        coefficients[b * width + k] = coefficient<Sim>(g[b * width + k], scores[b * width + k]);
      }
      add_row_gradients<Sim, false>(query + b * dim, rows, coefficients + b * width, width, dim, d_query + b * dim);
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
