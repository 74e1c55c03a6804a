// Vectors of lanes in the width of the level being compiled, with the few functions that scores and losses need.
// Plain GCC/Clang vector extensions: one body serves SSE2, AVX2, AVX-512 and NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kgfast/core.h"

namespace kgfast {
namespace KGFAST_LEVEL {

template <class F> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(KGFAST_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(KGFAST_VECTOR_BYTES)));
  static constexpr int kCount = KGFAST_VECTOR_BYTES / 4;
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(KGFAST_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(KGFAST_VECTOR_BYTES)));
  static constexpr int kCount = KGFAST_VECTOR_BYTES / 8;
};
using VF = Lanes<float>::V;
using VD = Lanes<double>::V;

template <class F> KG_HD typename Lanes<F>::V load(const F* p) {
  typename Lanes<F>::V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class F> KG_HD void store(F* p, typename Lanes<F>::V v) { __builtin_memcpy(p, &v, sizeof v); }
template <class F> KG_HD typename Lanes<F>::V splat(F x) { return typename Lanes<F>::V{} + x; }

// The first n lanes from memory, zero in the others.
template <class F> KG_HD typename Lanes<F>::V load_part(const F* p, int64_t n) {
  typename Lanes<F>::V v{};
  for (int i = 0; i < Lanes<F>::kCount; ++i)
    if (i < n) v[i] = p[i];
  return v;
}
template <class F> KG_HD void store_part(F* p, typename Lanes<F>::V v, int64_t n) {
  for (int i = 0; i < Lanes<F>::kCount; ++i)
    if (i < n) p[i] = v[i];
}
#if KGFAST_VECTOR_BYTES == 64
template <> KG_HD VF load_part<float>(const float* p, int64_t n) {
  return (VF)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
template <> KG_HD void store_part<float>(float* p, VF v, int64_t n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
#endif

KG_HD VF absolute(VF x) { return (VF)((Lanes<float>::I)x & 0x7fffffff); }
KG_HD VD absolute(VD x) { return (VD)((Lanes<double>::I)x & 0x7fffffffffffffffLL); }
KG_HD VD plus(VD x, VD y) { return x + y; }
KG_HD VD minus(VD x, VD y) { return x - y; }
#if KGFAST_VECTOR_BYTES == 64
// Through the multiply-add units, for sums whose terms keep the adders busy: the same bits.
KG_HD VF plus(VF x, VF y) { return (VF)_mm512_fmadd_ps((__m512)y, _mm512_set1_ps(1.f), (__m512)x); }
KG_HD VF minus(VF x, VF y) { return (VF)_mm512_fnmadd_ps((__m512)y, _mm512_set1_ps(1.f), (__m512)x); }
#else
KG_HD VF plus(VF x, VF y) { return x + y; }
KG_HD VF minus(VF x, VF y) { return x - y; }
#endif
#if KGFAST_VECTOR_BYTES == 64
// 1 / sqrt(x), of 14 bits made 1 unit in the last place by a step of Newton, and `otherwise` of 0 and infinity, which
// are the numbers that equal their half.
KG_HD VF newton_inverse_root(VF x, VF otherwise) {
  const VF half = 0.5f * x;
  const __mmask16 apart = _mm512_cmp_ps_mask((__m512)x, (__m512)half, _CMP_NEQ_UQ);
  const VF y = (VF)_mm512_mask_rsqrt14_ps((__m512)otherwise, apart, (__m512)x);
  return (VF)_mm512_mask_fmadd_ps((__m512)y, apart, (__m512)(0.5f - half * y * y), (__m512)y);
}
KG_HD VF inverse_root(VF x) { return newton_inverse_root(x, VF{}); }
KG_HD VF root(VF x) { return x * newton_inverse_root(x, splat(1.f)); }  // the unit for square roots is thrice as slow
KG_HD VD root(VD x) { return (VD)_mm512_sqrt_pd((__m512d)x); }
KG_HD float sum_lanes(VF v) { return _mm512_reduce_add_ps((__m512)v); }
#elif KGFAST_VECTOR_BYTES == 32
KG_HD VF root(VF x) { return (VF)_mm256_sqrt_ps((__m256)x); }
KG_HD VD root(VD x) { return (VD)_mm256_sqrt_pd((__m256d)x); }
KG_HD float sum_lanes(VF v) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  const __m128 two = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#else
template <class V> KG_HD V root_lanes(V x) {
  V y;
  for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) y[i] = std::sqrt(x[i]);
  return y;
}
KG_HD VF root(VF x) { return root_lanes(x); }
KG_HD VD root(VD x) { return root_lanes(x); }
KG_HD float sum_lanes(VF v) { return (v[0] + v[2]) + (v[1] + v[3]); }
#endif
KG_HD double sum_lanes(VD v) {
  double sum = 0;
  for (int i = 0; i < Lanes<double>::kCount; ++i) sum += v[i];
  return sum;
}
// sum + c * sign(d), and c * sign(d)
KG_HD VD signed_like(VD c, VD d) { return d > 0 ? c : (d < 0 ? -c : VD{}); }
KG_HD VD add_signed(VD sum, VD c, VD d) { return d > 0 ? sum + c : (d < 0 ? sum - c : sum); }
KG_HD VD inverse_root(VD x) { return x > 0 ? 1. / root(x) : VD{}; }
#if KGFAST_VECTOR_BYTES == 64
KG_HD VF add_signed(VF sum, VF c, VF d) {  // c with d's sign mixed in, where d is not 0
  const __m512i turned = _mm512_ternarylogic_epi32((__m512i)c, (__m512i)d, _mm512_set1_epi32(int(0x80000000)), 0x78);
  const __mmask16 apart = _mm512_cmp_ps_mask((__m512)d, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  return (VF)_mm512_mask_add_ps((__m512)sum, apart, (__m512)sum, (__m512)turned);
}
KG_HD VF signed_like(VF c, VF d) {
  const __mmask16 apart = _mm512_cmp_ps_mask((__m512)d, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  return (VF)_mm512_maskz_ternarylogic_epi32(apart, (__m512i)c, (__m512i)d, _mm512_set1_epi32(int(0x80000000)), 0x78);
}
#else
KG_HD VF signed_like(VF c, VF d) { return d > 0 ? c : (d < 0 ? -c : VF{}); }
KG_HD VF add_signed(VF sum, VF c, VF d) { return d > 0 ? sum + c : (d < 0 ? sum - c : sum); }
KG_HD VF inverse_root(VF x) { return x > 0 ? 1.f / root(x) : VF{}; }
#endif
KG_HD VF larger(VF x, VF y) { return x > y ? x : y; }
KG_HD VD larger(VD x, VD y) { return x > y ? x : y; }
#if KGFAST_VECTOR_BYTES == 64
KG_HD float largest_lane(VF v) { return _mm512_reduce_max_ps((__m512)v); }
#else
KG_HD float largest_lane(VF v) {
  float m = v[0];
  for (int i = 1; i < Lanes<float>::kCount; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
#endif
KG_HD double largest_lane(VD v) {
  double m = v[0];
  for (int i = 1; i < Lanes<double>::kCount; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x for x <= 88, error below 2 units in the last place; below -87.3 the result is 0.
KG_HD VF exponential(VF x) {
  const VF clamped = x < -87.3f ? splat(-87.3f) : x;  // lets NaN through
  const VF shifted = clamped * 1.44269504f + 12582912.f;  // adding 1.5 * 2^23 rounds to an integer
  const VF n = shifted - 12582912.f;
  VF r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  VF p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const VF y = p * r * r + r + 1.f;
  const VF power = (VF)((__builtin_convertvector(n, Lanes<float>::I) + 127) << 23);
  return x < -87.3f ? VF{} : y * power;
}
KG_HD VD exponential(VD x) {
  VD y;
  for (int i = 0; i < Lanes<double>::kCount; ++i) y[i] = std::exp(x[i]);
  return y;
}
// log(1 + u) for u in [0, 1], as 2 atanh(u / (2 + u)).
KG_HD VF log_one_plus(VF u) {
  const VF z = u / (u + 2.f), s = z * z;
  VF p = splat(1.f / 15);
  p = p * s + 1.f / 13;
  p = p * s + 1.f / 11;
  p = p * s + 1.f / 9;
  p = p * s + 1.f / 7;
  p = p * s + 1.f / 5;
  p = p * s + 1.f / 3;
  return (z + z * s * p) * 2.f;
}
KG_HD VD log_one_plus(VD u) {
  VD y;
  for (int i = 0; i < Lanes<double>::kCount; ++i) y[i] = std::log1p(u[i]);
  return y;
}

// Sine and cosine, to 2 units in the last place; phases beyond 8192 go to the scalar functions.
KG_HD void sine_cosine(VF x, VF& sine, VF& cosine) {
  if (largest_lane(absolute(x)) > 8192.f) {
    for (int i = 0; i < Lanes<float>::kCount; ++i) sine[i] = std::sin(x[i]), cosine[i] = std::cos(x[i]);
    return;
  }
  const VF shifted = x * 0.636619772f + 12582912.f;  // quarter turns, rounded
  const VF n = shifted - 12582912.f;
  VF r = x - n * 1.5703125f;  // pi / 2 in three parts
  r = r - n * 4.837512969970703125e-4f;
  r = r - n * 7.54978995489188e-8f;
  const VF r2 = r * r;
  const VF s = r + r * r2 * (r2 * (r2 * -1.9515295891e-4f + 8.3321608736e-3f) - 1.6666654611e-1f);
  const VF c =
      1.f - 0.5f * r2 + r2 * r2 * (r2 * (r2 * 2.443315711809948e-5f - 1.388731625493765e-3f) + 4.166664568298827e-2f);
  const Lanes<float>::I quarter = __builtin_convertvector(n, Lanes<float>::I);
  const VF a = (quarter & 1) != 0 ? c : s, b = (quarter & 1) != 0 ? s : c;
  sine = (quarter & 2) != 0 ? -a : a, cosine = ((quarter + 1) & 2) != 0 ? -b : b;
}
KG_HD void sine_cosine(VD x, VD& sine, VD& cosine) {
  for (int i = 0; i < Lanes<double>::kCount; ++i) sine[i] = std::sin(x[i]), cosine[i] = std::cos(x[i]);
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
