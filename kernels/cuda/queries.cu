// Queries of a batch and their adjoint: elementwise operators, O(B D) bytes; RESCAL's matrix product by name.
#include <type_traits>

#include "kgfast/device.h"
#include "machine.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

using namespace generic;

template <class Op> KG_DEVICE Pair<float> relation_at(const float* r, int64_t d, int64_t half) {
  if constexpr (Op::kPhases) return {std::cos(r[d]), std::sin(r[d])};
  else if constexpr (Op::kRelationParts == 2) return {r[d], r[d + half]};
  else return {r[d], 0.f};
}
KG_DEVICE const float* anchor_row(const QueryRows& a, const int64_t* triple) {
  return a.entities + anchor_of(triple, a.side) * a.dim;
}

// A thread makes one coordinate (of both halves) of one query.
template <class Op> struct Queries {
  static constexpr int kThreads = 256;
  QueryRows a;
  float* out;

  KG_DEVICE void operator()() const {
    const int64_t length = a.dim / Op::kParts, i = block_x() * kThreads + thread(), b = i / length, d = i % length;
    if (b >= a.batch) return;
    const int64_t* triple = a.triples + 3 * b;
    const float *x = anchor_row(a, triple), *r = a.relations + triple[1] * a.relation_width;
    float* q = out + b * a.dim;
    const bool tail = a.side == Side::kTail;
    if constexpr (Op::kParts == 1) {
      q[d] = tail ? Op::tail(x[d], r[d]) : Op::head(x[d], r[d]);
    } else {
      const Pair<float> e{x[d], x[d + length]}, w = relation_at<Op>(r, d, length);
      const Pair<float> y = tail ? Op::tail(e, w) : Op::head(e, w);
      q[d] = y.a, q[d + length] = y.b;
    }
  }
};

template <class Op> struct QueriesAdjoint {
  static constexpr int kThreads = 256;
  QueryRows a;
  const float* d_query;
  float *d_anchor, *d_relation;

  KG_DEVICE void operator()() const {
    const int64_t length = a.dim / Op::kParts, i = block_x() * kThreads + thread(), b = i / length, d = i % length;
    if (b >= a.batch) return;
    const int64_t* triple = a.triples + 3 * b;
    const float *x = anchor_row(a, triple), *r = a.relations + triple[1] * a.relation_width, *g = d_query + b * a.dim;
    float *dx = d_anchor + b * a.dim, *dr = d_relation + b * a.relation_width;
    const bool tail = a.side == Side::kTail;
    if constexpr (Op::kParts == 1) {
      float de, dw;
      if (tail) Op::tail_adjoint(g[d], x[d], r[d], de, dw);
      else Op::head_adjoint(g[d], x[d], r[d], de, dw);
      dx[d] = de, dr[d] = dw;
    } else {
      const Pair<float> e{x[d], x[d + length]}, w = relation_at<Op>(r, d, length), y{g[d], g[d + length]};
      Pair<float> de, dw;
      if (tail) Op::tail_adjoint(y, e, w, de, dw);
      else Op::head_adjoint(y, e, w, de, dw);
      dx[d] = de.a, dx[d + length] = de.b, dr[d] = dw.a;
      if constexpr (Op::kRelationParts == 2) dr[d + length] = dw.b;
    }
  }
};

// out = R x (by rows: a warp sums one) or R^T x (by columns: a thread sums one), R a dim x dim matrix. A block a
// triple.
KG_DEVICE void multiply(const float* matrix, const float* x, int64_t dim, bool transposed, float* out) {
  const int threads = 128;
  if (transposed) {
    for (int64_t j = thread(); j < dim; j += threads) {
      float sum = 0;
      for (int64_t i = 0; i < dim; ++i) sum += matrix[i * dim + j] * x[i];
      out[j] = sum;
    }
  } else {
    for (int64_t i = warp(); i < dim; i += threads / 32) {
      float sum[1] = {};
      for (int64_t j = lane(); j < dim; j += 32) sum[0] += matrix[i * dim + j] * x[j];
      sum_warp(sum);
      if (lane() == 0) out[i] = sum[0];
    }
  }
}
template <> struct Queries<Rescal> {
  static constexpr int kThreads = 128;
  QueryRows a;
  float* out;

  KG_DEVICE void operator()() const {
    const int64_t* triple = a.triples + 3 * block_x();
    multiply(a.relations + triple[1] * a.relation_width, anchor_row(a, triple), a.dim, a.side == Side::kTail,
             out + block_x() * a.dim);
  }
};
template <> struct QueriesAdjoint<Rescal> {
  static constexpr int kThreads = 128;
  QueryRows a;
  const float* d_query;
  float *d_anchor, *d_relation;

  // tail: q = R^T x, so dx = R g and dR = x g^T; head: q = R x, so dx = R^T g and dR = g x^T
  KG_DEVICE void operator()() const {
    const int64_t b = block_x(), *triple = a.triples + 3 * b;
    const float *x = anchor_row(a, triple), *g = d_query + b * a.dim;
    multiply(a.relations + triple[1] * a.relation_width, g, a.dim, a.side == Side::kHead, d_anchor + b * a.dim);
    const float *left = a.side == Side::kTail ? x : g, *right = a.side == Side::kTail ? g : x;
    for (int64_t i = thread(); i < a.dim * a.dim; i += kThreads)
      d_relation[b * a.relation_width + i] = left[i / a.dim] * right[i % a.dim];
  }
};

template <class Op, class Body> static void launch_rows(const Body& body, const QueryRows& a, void* stream) {
  if constexpr (std::is_same_v<Op, Rescal>) launch(body, Grid{a.batch}, 0, stream);
  else launch(body, Grid{(a.batch * (a.dim / Op::kParts) + Body::kThreads - 1) / Body::kThreads}, 0, stream);
}

void queries(int score, const QueryRows& a, float* out, void* stream) {
  with_operator(score, [&](auto op) { launch_rows<decltype(op)>(Queries<decltype(op)>{a, out}, a, stream); });
}
void queries_adjoint(int score, const QueryRows& a, const float* d_query, float* d_anchor, float* d_relation,
                     void* stream) {
  with_operator(score, [&](auto op) {
    launch_rows<decltype(op)>(QueriesAdjoint<decltype(op)>{a, d_query, d_anchor, d_relation}, a, stream);
  });
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
