// Queries of a batch and their adjoint: O(B D) work, done once a step.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// A vector of coordinates [d, d + n) of a row of two halves.
template <class F> KG_HD Pair<typename Lanes<F>::V> halves(const F* x, int64_t d, int64_t half, int64_t n) {
  if (n == Lanes<F>::kCount) return {load(x + d), load(x + d + half)};
  return {load_part(x + d, n), load_part(x + d + half, n)};
}
template <class F> KG_HD void put_halves(F* x, int64_t d, int64_t half, int64_t n, Pair<typename Lanes<F>::V> y) {
  store_part(x + d, y.a, n), store_part(x + d + half, y.b, n);
}
template <class Op, class F> KG_HD Pair<typename Lanes<F>::V> relation_at(const F* r, int64_t d, int64_t half,
                                                                          int64_t n) {
  if constexpr (Op::kRelationParts == 2) return halves(r, d, half, n);
  Pair<typename Lanes<F>::V> w{load_part(r + d, n), {}};
  if constexpr (Op::kPhases) {
    const auto phases = w.a;
    sine_cosine(phases, w.b, w.a);
  }
  return w;
}
// Visits (d, number of lanes) of the vectors of a half.
template <class F, class Visit> KG_HD void each_vector(int64_t half, Visit visit) {
  constexpr int kLanes = Lanes<F>::kCount;
  for (int64_t d = 0; d < half; d += kLanes) visit(d, half - d < kLanes ? half - d : int64_t(kLanes));
}

template <class Op, class F>
static void query_row(Side side, const F* x, const F* r, int64_t dim, F* q) {
  if constexpr (std::is_same_v<Op, Rescal>) {
    if (side == Side::kHead) {
      for (int64_t i = 0; i < dim; ++i) {
        F sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < dim; ++j) sum += r[i * dim + j] * x[j];
        q[i] = sum;
      }
    } else {
      for (int64_t j = 0; j < dim; ++j) q[j] = 0;
      for (int64_t i = 0; i < dim; ++i)
#pragma omp simd
        for (int64_t j = 0; j < dim; ++j) q[j] += x[i] * r[i * dim + j];
    }
  } else if constexpr (Op::kParts == 1) {
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) q[d] = side == Side::kTail ? Op::tail(x[d], r[d]) : Op::head(x[d], r[d]);
  } else {
    const int64_t half = dim / 2;
    each_vector<F>(half, [&](int64_t d, int64_t n) {
      const auto e = halves(x, d, half, n), w = relation_at<Op>(r, d, half, n);
      put_halves(q, d, half, n, side == Side::kTail ? Op::tail(e, w) : Op::head(e, w));
    });
  }
}

template <class Op, class F>
static void query_row_adjoint(Side side, const F* g, const F* x, const F* r, int64_t dim, F* dx, F* dr) {
  if constexpr (std::is_same_v<Op, Rescal>) {
    // tail: q = R^T x, so dx = R g and dR = x g^T; head: q = R x, so dx = R^T g and dR = g x^T
    query_row<Rescal>(side == Side::kTail ? Side::kHead : Side::kTail, g, r, dim, dx);
    const F *left = side == Side::kTail ? x : g, *right = side == Side::kTail ? g : x;
    for (int64_t i = 0; i < dim; ++i)
#pragma omp simd
      for (int64_t j = 0; j < dim; ++j) dr[i * dim + j] = left[i] * right[j];
  } else if constexpr (Op::kParts == 1) {
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      if (side == Side::kTail) Op::tail_adjoint(g[d], x[d], r[d], dx[d], dr[d]);
      else Op::head_adjoint(g[d], x[d], r[d], dx[d], dr[d]);
    }
  } else {
    const int64_t half = dim / 2;
    each_vector<F>(half, [&](int64_t d, int64_t n) {
      const auto e = halves(x, d, half, n), w = relation_at<Op>(r, d, half, n), y = halves(g, d, half, n);
      Pair<typename Lanes<F>::V> de, dw;
      if (side == Side::kTail) Op::tail_adjoint(y, e, w, de, dw);
      else Op::head_adjoint(y, e, w, de, dw);
      put_halves(dx, d, half, n, de);
      if constexpr (Op::kRelationParts == 2) put_halves(dr, d, half, n, dw);
      else store_part(dr + d, dw.a, n);
    });
  }
}

template <class Op, class F>
static void queries(const QueryArguments<F>& a, F* out) {
  parallel_for(a.batch, 32, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* triple = a.triples + 3 * b;
      query_row<Op>(a.side, a.entities + anchor_of(triple, a.side) * a.dim, a.relations + triple[1] * a.relation_width,
                    a.dim, out + b * a.dim);
    }
  });
}

template <class Op, class F>
static void queries_adjoint(const QueryArguments<F>& a, const F* d_query, F* d_anchor, F* d_relation) {
  parallel_for(a.batch, 32, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* triple = a.triples + 3 * b;
      query_row_adjoint<Op>(a.side, d_query + b * a.dim, a.entities + anchor_of(triple, a.side) * a.dim,
                            a.relations + triple[1] * a.relation_width, a.dim, d_anchor + b * a.dim,
                            d_relation + b * a.relation_width);
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
