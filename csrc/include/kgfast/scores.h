// The mathematics of every score, for host and device: a query operator with its adjoint, and a similarity. A new one
// is a struct here and its line in the list. F is a scalar or a vector of lanes. A row of an even-dim model is two
// halves, given here as a Pair.
#pragma once

#include <cmath>

#include "core.h"

#define KGFAST_SIMILARITIES(X) X(dot, Dot) X(l1, L1) X(l2, L2) X(modulus, Modulus)

// name, query operator, similarity
#define KGFAST_SCORES(X)     \
  X(transe_l1, TransE, L1)   \
  X(transe_l2, TransE, L2)   \
  X(distmult, DistMult, Dot) \
  X(complex, ComplEx, Dot)   \
  X(rotate, RotatE, Modulus) \
  X(simple, SimplE, Dot)     \
  X(cp, CP, Dot)             \
  X(rescal, Rescal, Dot)

namespace kgfast {

enum class Similarity : int { KGFAST_SIMILARITIES(KGFAST_ENUMERATOR) };

namespace KGFAST_LEVEL {

// Scalar forms; csrc/cpu/simd.h has the same names for vectors of lanes.
KG_HD float absolute(float x) { return std::fabs(x); }
KG_HD double absolute(double x) { return std::fabs(x); }
KG_HD float plus(float x, float y) { return x + y; }
KG_HD double plus(double x, double y) { return x + y; }
KG_HD float root(float x) { return std::sqrt(x); }
KG_HD double root(double x) { return std::sqrt(x); }
KG_HD float add_signed(float sum, float c, float d) { return d > 0 ? sum + c : (d < 0 ? sum - c : sum); }
KG_HD double add_signed(double sum, double c, double d) { return d > 0 ? sum + c : (d < 0 ? sum - c : sum); }
KG_HD float signed_like(float c, float d) { return d > 0 ? c : (d < 0 ? -c : 0); }
KG_HD double signed_like(double c, double d) { return d > 0 ? c : (d < 0 ? -c : 0); }
KG_HD float inverse_root(float x) { return x > 0 ? 1 / std::sqrt(x) : 0; }
KG_HD double inverse_root(double x) { return x > 0 ? 1 / std::sqrt(x) : 0; }

// ---- query operators -------------------------------------------------------------------------------------
// - tail(h, r), head(t, r): the query. *_adjoint(): maps g = dL/dq to (d entity, d relation).
// - kParts: halves of an entity row. kRelationParts: the same for relation rows, in units of dim / kParts.
// - kPhases: a relation row holds angles, handed over as (cos, sin).

struct TransE {  // q = h + r | t - r                                             (Bordes et al. 2013)
  static constexpr int kParts = 1, kRelationParts = 1;
  static constexpr bool kPhases = false;
  template <class F> static KG_HD F tail(F h, F r) { return h + r; }
  template <class F> static KG_HD F head(F t, F r) { return t - r; }
  template <class F> static KG_HD void tail_adjoint(F g, F, F, F& dh, F& dr) { dh = g, dr = g; }
  template <class F> static KG_HD void head_adjoint(F g, F, F, F& dt, F& dr) { dt = g, dr = -g; }
};

struct DistMult {  // q = h * r | t * r                                           (Yang et al. 2015)
  static constexpr int kParts = 1, kRelationParts = 1;
  static constexpr bool kPhases = false;
  template <class F> static KG_HD F tail(F h, F r) { return h * r; }
  template <class F> static KG_HD F head(F t, F r) { return t * r; }
  template <class F> static KG_HD void tail_adjoint(F g, F h, F r, F& dh, F& dr) { dh = g * r, dr = g * h; }
  template <class F> static KG_HD void head_adjoint(F g, F t, F r, F& dt, F& dr) { dt = g * r, dr = g * t; }
};

struct ComplEx {  // q = h r | t conj(r), complex product                         (Trouillon et al. 2016)
  static constexpr int kParts = 2, kRelationParts = 2;
  static constexpr bool kPhases = false;
  template <class F> static KG_HD Pair<F> tail(Pair<F> h, Pair<F> r) {
    return {h.a * r.a - h.b * r.b, h.a * r.b + h.b * r.a};
  }
  template <class F> static KG_HD Pair<F> head(Pair<F> t, Pair<F> r) {
    return {t.a * r.a + t.b * r.b, t.b * r.a - t.a * r.b};
  }
  template <class F>
  static KG_HD void tail_adjoint(Pair<F> g, Pair<F> h, Pair<F> r, Pair<F>& dh, Pair<F>& dr) {
    dh = head(g, r), dr = head(g, h);
  }
  template <class F>
  static KG_HD void head_adjoint(Pair<F> g, Pair<F> t, Pair<F> r, Pair<F>& dt, Pair<F>& dr) {
    dt = tail(g, r), dr = head(t, g);
  }
};

struct RotatE {  // q = h e^{i phase} | t e^{-i phase}; r holds (cos, sin), dr.a the phase's gradient  (Sun et al. 2019)
  static constexpr int kParts = 2, kRelationParts = 1;
  static constexpr bool kPhases = true;
  template <class F> static KG_HD Pair<F> tail(Pair<F> h, Pair<F> r) { return ComplEx::tail(h, r); }
  template <class F> static KG_HD Pair<F> head(Pair<F> t, Pair<F> r) { return ComplEx::head(t, r); }
  template <class F>
  static KG_HD void tail_adjoint(Pair<F> g, Pair<F> h, Pair<F> r, Pair<F>& dh, Pair<F>& dr) {
    const Pair<F> q = tail(h, r);
    dh = ComplEx::head(g, r), dr.a = g.b * q.a - g.a * q.b, dr.b = dr.a;
  }
  template <class F>
  static KG_HD void head_adjoint(Pair<F> g, Pair<F> t, Pair<F> r, Pair<F>& dt, Pair<F>& dr) {
    const Pair<F> q = head(t, r);
    dt = ComplEx::tail(g, r), dr.a = g.a * q.b - g.b * q.a, dr.b = dr.a;
  }
};

struct SimplE {  // q = (r' h_b, r h_a) / 2 | (r t_b, r' t_a) / 2, with r = (r, r')  (Kazemi and Poole 2018)
  static constexpr int kParts = 2, kRelationParts = 2;
  static constexpr bool kPhases = false;
  template <class F> static KG_HD Pair<F> tail(Pair<F> h, Pair<F> r) { return {r.b * h.b * 0.5f, r.a * h.a * 0.5f}; }
  template <class F> static KG_HD Pair<F> head(Pair<F> t, Pair<F> r) { return {r.a * t.b * 0.5f, r.b * t.a * 0.5f}; }
  template <class F>
  static KG_HD void tail_adjoint(Pair<F> g, Pair<F> h, Pair<F> r, Pair<F>& dh, Pair<F>& dr) {
    dh = {g.b * r.a * 0.5f, g.a * r.b * 0.5f}, dr = {g.b * h.a * 0.5f, g.a * h.b * 0.5f};
  }
  template <class F>
  static KG_HD void head_adjoint(Pair<F> g, Pair<F> t, Pair<F> r, Pair<F>& dt, Pair<F>& dr) {
    dt = {g.b * r.b * 0.5f, g.a * r.a * 0.5f}, dr = {g.a * t.b * 0.5f, g.b * t.a * 0.5f};
  }
};

struct CP {  // q = (0, r h_a) | (r t_b, 0)                                        (Hitchcock 1927)
  static constexpr int kParts = 2, kRelationParts = 1;
  static constexpr bool kPhases = false;
  template <class F> static KG_HD Pair<F> tail(Pair<F> h, Pair<F> r) { return {F{}, r.a * h.a}; }
  template <class F> static KG_HD Pair<F> head(Pair<F> t, Pair<F> r) { return {r.a * t.b, F{}}; }
  template <class F>
  static KG_HD void tail_adjoint(Pair<F> g, Pair<F> h, Pair<F> r, Pair<F>& dh, Pair<F>& dr) {
    dh = {g.b * r.a, F{}}, dr.a = g.b * h.a, dr.b = F{};
  }
  template <class F>
  static KG_HD void head_adjoint(Pair<F> g, Pair<F> t, Pair<F> r, Pair<F>& dt, Pair<F>& dr) {
    dt = {F{}, g.a * r.a}, dr.a = g.a * t.b, dr.b = F{};
  }
};

struct Rescal {  // q = R^T h | R t, R a matrix: not elementwise, so kernels treat it by name  (Nickel et al. 2011)
  static constexpr int kParts = 0, kRelationParts = 0;
  static constexpr bool kPhases = false;
};

// ---- similarities ----------------------------------------------------------------------------------------
// - accumulate(): adds one coordinate. score(): turns the sum into the score.
// - add_gradient(): sum + c * ds/dx at (x, y). gradient(): that without the sum, for distances.
// - kMatrixProduct: all scores of many queries are one, and so are both gradients.
// - kComplex: a coordinate is a complex number, real parts in the first half of a row.
// - kDividesByScore: c is dL/ds divided by the score, see coefficient().
// All are symmetric in (x, y), so one gradient serves the query and the row, and that of a distance at (y, x) is minus
// that at (x, y). Where it does not exist (x = y) it is 0.

struct Dot {  // s = sum_d x_d y_d
  static constexpr bool kMatrixProduct = true, kComplex = false, kDividesByScore = false;
  template <class V> static KG_HD V accumulate(V sum, V x, V y) { return sum + x * y; }
  template <class V> static KG_HD V score(V sum) { return sum; }
  template <class V> static KG_HD V add_gradient(V sum, V c, V, V y) { return sum + c * y; }
};

struct L1 {  // s = -sum_d |x_d - y_d|
  static constexpr bool kMatrixProduct = false, kComplex = false, kDividesByScore = false;
  template <class V> static KG_HD V accumulate(V sum, V x, V y) { return plus(sum, absolute(x - y)); }
  template <class V> static KG_HD V score(V sum) { return -sum; }
  template <class V> static KG_HD V add_gradient(V sum, V c, V x, V y) { return add_signed(sum, c, y - x); }
  template <class V> static KG_HD V gradient(V c, V x, V y) { return signed_like(c, y - x); }
};

struct L2 {  // s = -sqrt(sum_d (x_d - y_d)^2), so ds/dx = (x - y) / s
  static constexpr bool kMatrixProduct = false, kComplex = false, kDividesByScore = true;
  template <class V> static KG_HD V accumulate(V sum, V x, V y) { return sum + (x - y) * (x - y); }
  template <class V> static KG_HD V score(V sum) { return -root(sum); }
  template <class V> static KG_HD V add_gradient(V sum, V c, V x, V y) { return sum + c * (x - y); }
  template <class V> static KG_HD V gradient(V c, V x, V y) { return c * (x - y); }
};

struct Modulus {  // s = -sum_k |x_k - y_k| over complex numbers
  static constexpr bool kMatrixProduct = false, kComplex = true, kDividesByScore = false;
  template <class V> static KG_HD V accumulate(V sum, Pair<V> x, Pair<V> y) {
    const V a = x.a - y.a, b = x.b - y.b;
    return sum + root(a * a + b * b);
  }
  template <class V> static KG_HD V score(V sum) { return -sum; }
  template <class V> static KG_HD Pair<V> add_gradient(Pair<V> sum, V c, Pair<V> x, Pair<V> y) {
    const V a = y.a - x.a, b = y.b - x.b, scale = c * inverse_root(a * a + b * b);
    return {sum.a + a * scale, sum.b + b * scale};
  }
  template <class V> static KG_HD Pair<V> gradient(V c, Pair<V> x, Pair<V> y) {
    const V a = y.a - x.a, b = y.b - x.b, scale = c * inverse_root(a * a + b * b);
    return {a * scale, b * scale};
  }
};

// c of add_gradient(): dL/ds and the part of ds/dx that all coordinates share.
template <class Sim, class F> KG_HD F coefficient(F g, F score) {
  if constexpr (Sim::kDividesByScore) return score < 0 ? g / score : F(0);
  return g;
}

// ---- from codes to structs -------------------------------------------------------------------------------

template <class Call> static inline void with_similarity(Similarity similarity, Call call) {
#define KGFAST_CASE(word, Type) \
  if (similarity == Similarity::k##Type) return call(Type{});
  KGFAST_SIMILARITIES(KGFAST_CASE)
#undef KGFAST_CASE
}

// score: its place in the list.
template <class Call> static inline void with_operator(int score, Call call) {
  int place = 0;
#define KGFAST_CASE(word, Operator, Similarity) \
  if (score == place++) return call(Operator{});
  KGFAST_SCORES(KGFAST_CASE)
#undef KGFAST_CASE
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
