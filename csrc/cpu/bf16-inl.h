// Tiles of dot products whose operands are rounded to bfloat16, two to a lane, with sums in float32: twice the rate of
// float32 where the CPU has AVX-512 BF16. Same matrices as score_matrix and slope_matrix of tiles-inl.h.
#pragma once

#if KGFAST_VECTOR_BYTES == 64
#define KGFAST_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16")))

namespace kgfast {
namespace KGFAST_LEVEL {

// Low half of each lane: bfloat16 of `low`; high half: of `high`.
static inline __m512i pair_up(__m512 low, __m512 high) {
  auto rounded = [](__m512 x) {  // to nearest, ties to even; NaN stays NaN: its top bits are ones
    const __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __mmask16 number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    return _mm512_mask_add_epi32(bits, number, bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  };
  return _mm512_or_si512(_mm512_srli_epi32(rounded(low), 16), _mm512_and_si512(rounded(high), _mm512_set1_epi32(int(0xffff0000))));
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
  for (int64_t p = 0; p < pairs; p += 16) transpose16(from, p, out + p * width, width);  // all sizes are multiples of 16
}

struct HalfTile {
  static constexpr int kRows = Tile<float>::kRows, kColumns = 32;
  // lanes of two neighbours in a row of dim numbers, in whole vectors
  static int64_t pairs(int64_t dim) { return (dim + 31) / 32 * 16; }
};

// 16 rows from `begin` on (zero past `count`) as lanes of two: [pairs, width] at out, `width` lanes a step.
static void pack_pairs(const float* rows, int64_t begin, int64_t count, int64_t dim, float* buffer, float* out, int64_t width) {
  const int64_t pairs = HalfTile::pairs(dim);
  for (int64_t i = 0; i < 16; ++i)
    for (int64_t p = 0; p < pairs; p += 16)
      neighbours(rows + (begin + i) * dim + 2 * p, begin + i < count ? (dim - 2 * p > 32 ? 32 : dim - 2 * p) : 0, buffer + i * pairs + p);
  transpose_pairs(buffer, pairs, pairs, out, width);
}

KGFAST_BF16 static void half_score_tile(const float* queries, const float* rows, int64_t pairs, float* out, int64_t ld) {
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
  for (int m = 0; m < kRows; ++m) _mm512_storeu_ps(out + m * ld, left[m]), _mm512_storeu_ps(out + m * ld + 16, right[m]);
}

// As score_matrix: out[m, n] = query m . row n.
static void half_score_matrix(const float* query, int64_t queries, const float* table, int64_t columns, int64_t dim, int threads,
                                          float* packed, float* out, int64_t ld) {
  constexpr int kRows = HalfTile::kRows, kColumns = HalfTile::kColumns;
  const int64_t pairs = HalfTile::pairs(dim), panels = (queries + kRows - 1) / kRows;
  float* buffers = scratch<float>(kPanel, (16 * pairs + kColumns * pairs) * threads);
  float* edges = scratch<float>(kEdge, int64_t(kRows) * kColumns * threads);
  parallel_for(panels, 8, threads, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t panel = begin; panel < end; ++panel)  // 16 rows of lanes, of which a tile reads kRows
      pack_pairs(query, panel * kRows, queries, dim, buffers + 48 * pairs * worker, packed + panel * 16 * pairs, 16);
  });
  parallel_for(columns, kColumns, threads, [&](int64_t begin, int64_t end, int worker) {
    float *buffer = buffers + 48 * pairs * worker, *rows = buffer + 16 * pairs, *edge = edges + kRows * kColumns * worker;
    for (int half = 0; half < 2; ++half) pack_pairs(table, begin + 16 * half, columns, dim, buffer, rows + 16 * half, kColumns);
    for (int64_t m = 0; m < queries; m += kRows) {
      const bool whole = m + kRows <= queries && end - begin == kColumns;
      half_score_tile(packed + m / kRows * 16 * pairs, rows, pairs, whole ? out + m * ld + begin : edge, whole ? ld : kColumns);
      if (!whole)
        for (int64_t i = 0; i < kRows && m + i < queries; ++i)
          for (int64_t j = 0; j < end - begin; ++j) out[(m + i) * ld + begin + j] = edge[i * kColumns + j];
    }
  });
}

// weights[k / 2, m] = (g[m, k], g[m, k + 1]) for m < rows, else 0; g at g[m * g_row + k * g_column], one of which is 1.
static void pack_half_weights(const float* g, int64_t g_row, int64_t g_column, int rows, int64_t count, float* buffer, float* out) {
  const int64_t padded = (count + 31) / 32 * 32;
  if (g_column == 1) {
    for (int64_t k = 0; k < padded; k += 32) {
      for (int64_t m = 0; m < 16; ++m) neighbours(g + m * g_row + k, m < rows ? (count - k > 32 ? 32 : count - k) : 0, buffer + m * 16);
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

KGFAST_BF16 static void half_slope_block(const float* weights, const float* y, int64_t steps, int64_t n, int rows, float* const* out) {
  constexpr int kRows = HalfTile::kRows;
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
    store_part(out[m], load_part(out[m], n0) + (VF)left[m], n0);
    if (n1 > 0) store_part(out[m] + 16, load_part(out[m] + 16, n1) + (VF)right[m], n1);
  }
}

// As slope_matrix: out[i] += sum_k g[i, k] y[k].
static void half_slope_matrix(const float* g, int64_t g_row, int64_t g_column, int64_t x_count, const float* y, int64_t y_count,
                                          int64_t dim, int threads, float* out) {
  constexpr int kRows = HalfTile::kRows;
  constexpr int64_t kBlock = 512, kSteps = kBlock / 2;
  if (x_count == 0) return;
  const int64_t blocks = (dim + 31) / 32, panel_size = kSteps * 32 * blocks, own = panel_size + kSteps * 16 + 256;
  float* packs = scratch<float>(kWeights, own * threads);
  const int64_t panels = (x_count + kRows - 1) / kRows, pieces = x_count < 4 * y_count ? threads : 4 * threads;
  parallel_for(panels, (panels + pieces - 1) / pieces, threads, [&](int64_t first, int64_t last, int worker) {
    float *packed = packs + own * worker, *weights = packed + panel_size, *buffer = weights + kSteps * 16;
    for (int64_t k0 = 0; k0 < y_count; k0 += kBlock) {
      const int64_t count = y_count - k0 < kBlock ? y_count - k0 : kBlock, steps = (count + 1) / 2;
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t k = 0; k < steps; ++k)
          for (int half = 0; half < 2; ++half) {
            const int64_t d = block * 32 + 16 * half, n = dim - d < 0 ? 0 : (dim - d < 16 ? dim - d : 16);
            const float* row = y + (k0 + 2 * k) * dim + d;
            const __m512 low = n > 0 ? (__m512)load_part(row, n) : _mm512_setzero_ps();
            const __m512 high = n > 0 && 2 * k + 1 < count ? (__m512)load_part(row + dim, n) : _mm512_setzero_ps();
            _mm512_storeu_si512(packed + (block * steps + k) * 32 + 16 * half, pair_up(low, high));
          }
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t begin = panel * kRows;
        const int rows = int(x_count - begin < kRows ? x_count - begin : kRows);
        pack_half_weights(g + begin * g_row + k0 * g_column, g_row, g_column, rows, count, buffer, weights);
        for (int64_t block = 0; block < blocks; ++block) {
          float* outs[kRows];
          for (int m = 0; m < kRows; ++m) outs[m] = out + (begin + (m < rows ? m : rows - 1)) * dim + block * 32;
          half_slope_block(weights, packed + block * steps * 32, steps, dim - block * 32 < 32 ? dim - block * 32 : 32, rows, outs);
        }
      }
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
#endif
