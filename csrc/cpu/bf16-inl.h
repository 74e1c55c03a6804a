// Tiles of dot products whose operands are rounded to bfloat16, two to a lane, with sums in float32: twice the rate of
// float32 where the CPU has AVX-512 BF16.
#pragma once

#if KGFAST_VECTOR_BYTES == 64
#define KGFAST_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16")))

namespace kgfast {
namespace KGFAST_LEVEL {

// Low half of each lane: bfloat16 of `low`; high half: of `high`.
KGFAST_BF16 static inline __m512i pair_up(__m512 low, __m512 high) {
  const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh(high, low);  // 16 of low, then 16 of high
  const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(turns, apart);
}
// 32 numbers as 16 lanes of two neighbours.
KGFAST_BF16 static inline void neighbours(const float* from, int64_t count, float* out) {
  const __m512 first = (__m512)load_part(from, count < 16 ? count : 16);
  const __m512 second = count > 16 ? (__m512)load_part(from + 16, count < 32 ? count - 16 : 16) : _mm512_setzero_ps();
  _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}
KGFAST_BF16 static inline __m512 multiply_add(__m512 sum, __m512 a, __m512 b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// [16, pairs] lanes (row_stride apart) -> [pairs, width].
static void transpose_pairs(const float* rows, int64_t row_stride, int64_t pairs, float* out, int64_t width) {
  const float* from[16];
  for (int i = 0; i < 16; ++i) from[i] = rows + i * row_stride;
  for (int64_t p = 0; p < pairs; p += 16)
    transpose16(from, p, out + p * width, width);  // all sizes are multiples of 16
}

struct HalfTile {
  static constexpr int kRows = Tile<float>::kRows, kColumns = 32;
  // lanes of two neighbours in a row of dim numbers, in whole vectors
  static int64_t pairs(int64_t dim) { return (dim + 31) / 32 * 16; }
};

// 16 rows from `begin` on (zero past `count`) as lanes of two: [pairs, width] at out, `width` lanes a step.
KGFAST_BF16 static void pack_pairs(const float* rows, int64_t begin, int64_t count, int64_t dim, float* buffer,
                                   float* out, int64_t width) {
  const int64_t pairs = HalfTile::pairs(dim);
  for (int64_t i = 0; i < 16; ++i)
    for (int64_t p = 0; p < pairs; p += 16)
      neighbours(rows + (begin + i) * dim + 2 * p, begin + i < count ? (dim - 2 * p > 32 ? 32 : dim - 2 * p) : 0,
                 buffer + i * pairs + p);
  transpose_pairs(buffer, pairs, pairs, out, width);
}

KGFAST_BF16 static void half_score_tile(const float* queries, const float* rows, int64_t pairs, float* out,
                                        int64_t ld) {
  constexpr int kRows = HalfTile::kRows;
  __m512 left[kRows], right[kRows];
  for (int m = 0; m < kRows; ++m) left[m] = right[m] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    const __m512 e0 = _mm512_loadu_ps(rows + p * 32), e1 = _mm512_loadu_ps(rows + p * 32 + 16);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const __m512 q = _mm512_set1_ps(queries[p * 16 + m]);
      left[m] = multiply_add(left[m], q, e0), right[m] = multiply_add(right[m], q, e1);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    _mm512_storeu_ps(out + m * ld, left[m]), _mm512_storeu_ps(out + m * ld + 16, right[m]);
}

// weights[k / 2, m] = (g[m, k], g[m, k + 1]) for m < rows, else 0; g at g[m * g_row + k * g_column], one of which is 1.
KGFAST_BF16 static void pack_half_weights(const float* g, int64_t g_row, int64_t g_column, int rows, int64_t count,
                                          float* buffer, float* out) {
  const int64_t padded = (count + 31) / 32 * 32;
  if (g_column == 1) {
    for (int64_t k = 0; k < padded; k += 32) {
      for (int64_t m = 0; m < 16; ++m)
        neighbours(g + m * g_row + k, m < rows ? (count - k > 32 ? 32 : count - k) : 0, buffer + m * 16);
      transpose_pairs(buffer, 16, 16, out + k / 2 * 16, 16);
    }
    return;
  }
  for (int64_t k = 0; k < padded; k += 2) {
    const __m512 low = k < count ? (__m512)load_part(g + k * g_column, rows) : _mm512_setzero_ps();
    const __m512 high = k + 1 < count ? (__m512)load_part(g + (k + 1) * g_column, rows) : _mm512_setzero_ps();
    _mm512_storeu_si512(out + k / 2 * 16, pair_up(low, high));
  }
}

// out[m * dim + d..] += sum_k weights[k / 2, m] (y_k, y_k+1) for a panel of rows and n <= 32 coordinates.
KGFAST_BF16 static void half_product_block(const float* weights, const float* y, int64_t steps, int64_t n, int rows,
                                           int64_t dim, float* out) {
  constexpr int kRows = HalfTile::kRows;
  for (int m = 0; m < rows; ++m) __builtin_prefetch(out + m * dim, 1), __builtin_prefetch(out + m * dim + 16, 1);
  __m512 left[kRows], right[kRows];
  for (int m = 0; m < kRows; ++m) left[m] = right[m] = _mm512_setzero_ps();
  for (int64_t k = 0; k < steps; ++k) {
    const __m512 y0 = _mm512_loadu_ps(y + k * 32), y1 = _mm512_loadu_ps(y + k * 32 + 16);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const __m512 c = _mm512_set1_ps(weights[k * 16 + m]);
      left[m] = multiply_add(left[m], c, y0), right[m] = multiply_add(right[m], c, y1);
    }
  }
  const int64_t n0 = n < 16 ? n : 16, n1 = n - n0;
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    if (m >= rows) break;
    float* to = out + m * dim;
    store_part(to, load_part(to, n0) + (VF)left[m], n0);
    if (n1 > 0) store_part(to + 16, load_part(to + 16, n1) + (VF)right[m], n1);
  }
}

// As Blocks of tiles-inl.h.
struct HalfBlocks {
  static constexpr int kRows = HalfTile::kRows, kColumns = HalfTile::kColumns;
  static constexpr int64_t kSpan = 192;

  static int64_t queries_size(int64_t rows, int64_t dim) {
    return packed_rows<float>(rows) / kRows * 16 * HalfTile::pairs(dim);
  }
  static int64_t panel_size(int64_t dim) { return (16 + kColumns) * HalfTile::pairs(dim); }
  static int64_t span_size(int64_t rows, int64_t dim) { return (rows + 1) / 2 * ((dim + 31) / 32 * 32); }
  // after them, a buffer for packing
  static constexpr int64_t kWeightSize = kSpan / kRows * kSpan / 2 * 16, kWeights = kWeightSize + 256;

  // 16 rows of lanes, of which a tile reads kRows
  KGFAST_BF16 static void pack_queries(RowView<float> rows, int64_t begin, int64_t count, int64_t dim, float* buffer,
                                       float* packed) {
    pack_pairs(rows.base, begin, count, dim, buffer, packed + begin / kRows * 16 * HalfTile::pairs(dim), 16);
  }
  static void score(const float* packed, int64_t queries, RowView<float> row, int64_t begin, int64_t columns,
                    int64_t dim, float* panel, float* out, int64_t ld, Ahead& ahead) {
    const int64_t pairs = HalfTile::pairs(dim);
    float* buffer = panel + kColumns * pairs;
    for (int64_t half = 0; half < kColumns; half += 16)
      pack_pairs(row.base, begin + half, begin + columns, dim, buffer, panel + half, kColumns);
    for (int64_t m = 0; m < queries; m += kRows)
      ahead.some(), half_score_tile(packed + m / kRows * 16 * pairs, panel, pairs, out + m * ld, ld);
  }
  KGFAST_BF16 static void pack_span(const float* rows, int64_t begin, int64_t end, int64_t count, int64_t dim,
                                    float* out) {
    const int64_t steps = (count + 1) / 2;
    for (int64_t k = begin; k < end; k += 2)
      for (int64_t d = 0; d < dim; d += 32)
        for (int64_t e = d; e < d + 32; e += 16) {
          const int64_t n = dim - e < 0 ? 0 : (dim - e < 16 ? dim - e : 16);
          const float* row = rows + k * dim + e;
          const __m512 low = n > 0 ? (__m512)load_part(row, n) : _mm512_setzero_ps();
          const __m512 high = n > 0 && k + 1 < end ? (__m512)load_part(row + dim, n) : _mm512_setzero_ps();
          _mm512_storeu_si512(out + d * steps + k / 2 * 32 + e - d, pair_up(low, high));
        }
  }
  static void add_products(const float* g, int64_t g_row, int64_t g_column, int64_t x_count, const float* y,
                           int64_t y_count, int64_t dim, float* weights, float* out, Ahead& ahead) {
    float* buffer = weights + kWeightSize;
    for (int64_t x0 = 0; x0 < x_count; x0 += kSpan)
      for (int64_t k0 = 0; k0 < y_count; k0 += kSpan) {
        const int64_t rows = x_count - x0 < kSpan ? x_count - x0 : kSpan,
                      count = y_count - k0 < kSpan ? y_count - k0 : kSpan;
        const int64_t steps = (count + 1) / 2, stride = kSpan / 2 * 16;
        for (int64_t i = 0; i < rows; i += kRows)
          pack_half_weights(g + (x0 + i) * g_row + k0 * g_column, g_row, g_column,
                            int(rows - i < kRows ? rows - i : kRows), count, buffer, weights + i / kRows * stride);
        for (int64_t d = 0; d < dim; d += 32) {
          const float* part = y + span_size(k0, dim) + d * steps;
          for (int64_t i = 0; i < rows; i += kRows, ahead.some())
            half_product_block(weights + i / kRows * stride, part, steps, dim - d < 32 ? dim - d : 32,
                               int(rows - i < kRows ? rows - i : kRows), dim, out + (x0 + i) * dim + d);
        }
      }
  }
};

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
#endif
