// Tiles: many queries against many rows. A score tile keeps kRows x kColumns sums in registers and walks d once;
// lanes run over candidates, so every score is the same chain of operations wherever its row lies in the tile.
// A slope tile keeps kRows x (two vectors of d) and walks the other side's rows; it serves dQ and, transposed, dE.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

template <class F> struct Tile {
  static constexpr int kLanes = Lanes<F>::kCount;
  static constexpr int kRows = KGFAST_TILE_ROWS;
  static constexpr int kColumns = 2 * kLanes;
};

// Rows that lie one after the other, or wherever ids say. Row 0 stands in for a masked id (-1): its weight is 0.
template <class F> struct RowView {
  const F* base;
  const int64_t* ids;
  int64_t dim;
  KG_HD const F* operator()(int64_t i) const { return base + (ids ? (ids[i] < 0 ? 0 : ids[i]) : i) * dim; }
};

// [count, dim] rows (contiguous, or gathered through pointers) -> ceil(count / width) panels of [dim, width], zero padded.
template <class F>
static void pack_panel(RowView<F> row, int64_t begin, int64_t count, int64_t dim, int width, F* out) {
  for (int w = 0; w < width; ++w) {
    if (w < count) {
      const F* source = row(begin + w);
      for (int64_t d = 0; d < dim; ++d) out[d * width + w] = source[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) out[d * width + w] = 0;
    }
  }
}

#if KGFAST_VECTOR_BYTES == 64
// 16 rows at a time through registers: four times faster than the scalar transposition, which would show for small batches.
static inline void transpose16(const float* const* rows, int64_t d, float* out, int64_t out_stride) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(rows[i] + d);
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88), t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(out + (i) * out_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_ps(out + (i + 8) * out_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_ps(out + (i + 4) * out_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_ps(out + (i + 12) * out_stride, _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
  }
}
#endif

// kColumns rows of a table as one [dim, kColumns] panel.
template <class F>
static void pack_columns(RowView<F> row, int64_t begin, int64_t count, int64_t dim, F* out) {
  constexpr int kColumns = Tile<F>::kColumns;
#if KGFAST_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<F, float>) {
    if (count >= kColumns) {
      const float* rows[32];
      for (int w = 0; w < 32; ++w) rows[w] = row(begin + w);
      int64_t d = 0;
      for (; d + 16 <= dim; d += 16)
        for (int h = 0; h < 2; ++h) transpose16(rows + 16 * h, d, out + d * 32 + 16 * h, 32);
      for (; d < dim; ++d)
        for (int w = 0; w < 32; ++w) out[d * 32 + w] = rows[w][d];
      return;
    }
  }
#endif
  pack_panel<F>(row, begin, count, dim, kColumns, out);
}

// All queries as panels of [dim, kRows].
template <class F>
static void pack_rows(RowView<F> row, int64_t count, int64_t dim, int threads, F* out) {
  constexpr int kRows = Tile<F>::kRows;
  parallel_for(count, kRows, threads, [&](int64_t begin, int64_t end, int) {
    pack_panel<F>(row, begin, end - begin, dim, kRows, out + begin * dim);
  });
}
template <class F> KG_HD int64_t packed_rows(int64_t count) {
  return (count + Tile<F>::kRows - 1) / Tile<F>::kRows * Tile<F>::kRows;
}

// out[kRows, kColumns] (leading dimension ld) = scores of one panel of queries and one panel of rows.
template <class Sim, class F>
static inline void score_tile(const F* queries, const F* rows, int64_t dim, F* out, int64_t ld) {
  constexpr int kRows = Tile<F>::kRows, kLanes = Tile<F>::kLanes, kColumns = Tile<F>::kColumns;
  using V = typename Lanes<F>::V;
  if constexpr (Sim::kTag == Similarity::kModulus) {
    const int64_t half = dim / 2;
    for (int c = 0; c < 2; ++c) {  // one vector of columns at a time: a complex coordinate needs twice the registers
      V sum[kRows] = {};
      const F* column = rows + c * kLanes;
      for (int64_t d = 0; d < half; ++d) {
        const Pair<V> e{load(column + d * kColumns), load(column + (d + half) * kColumns)};
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m)
          sum[m] = Sim::accumulate(sum[m], Pair<V>{splat(queries[d * kRows + m]), splat(queries[(d + half) * kRows + m])}, e);
      }
      for (int m = 0; m < kRows; ++m) store(out + m * ld + c * kLanes, Sim::finish(sum[m]));
    }
  } else {
    V left[kRows] = {}, right[kRows] = {};
    for (int64_t d = 0; d < dim; ++d) {
      const V e0 = load(rows + d * kColumns), e1 = load(rows + d * kColumns + kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const V q = splat(queries[d * kRows + m]);
        left[m] = Sim::accumulate(left[m], q, e0);
        right[m] = Sim::accumulate(right[m], q, e1);
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      store(out + m * ld, Sim::finish(left[m]));
      store(out + m * ld + kLanes, Sim::finish(right[m]));
    }
  }
}

// out[m, d..] += sum_k weights[k * kRows + m] slope(x_m, y_k) for a block of two vectors of d (or one complex vector).
template <class Sim, bool kPart, class F>
static inline void slope_block(const F* weights, const F* const* x, RowView<F> y, int64_t first, int64_t count, int64_t half, int64_t d, int64_t n,
                               int rows, F* const* out) {
  constexpr int kRows = Tile<F>::kRows, kLanes = Tile<F>::kLanes;
  constexpr bool kComplex = Sim::kTag == Similarity::kModulus;
  using V = typename Lanes<F>::V;
  const int64_t second = kComplex ? d + half : d + kLanes;
  const int64_t n0 = kPart && n < kLanes ? n : kLanes, n1 = kComplex ? n0 : (kPart ? (n > kLanes ? n - kLanes : 0) : kLanes);
  auto get = [&](const F* p, int64_t lanes) { return kPart ? load_part(p, lanes) : load(p); };
  V left[kRows] = {}, right[kRows] = {};
  V x0[kRows] = {}, x1[kRows] = {};
  if constexpr (Sim::kTag != Similarity::kDot)
    for (int m = 0; m < kRows; ++m) x0[m] = get(x[m] + d, n0), x1[m] = n1 > 0 ? get(x[m] + second, n1) : V{};
  for (int64_t k = 0; k < count; ++k) {
    const F* row = y(first + k);
    const V y0 = get(row + d, n0), y1 = n1 > 0 ? get(row + second, n1) : V{};
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const V c = splat(weights[k * kRows + m]);
      if constexpr (kComplex) {
        const Pair<V> sum = Sim::add_slope(Pair<V>{left[m], right[m]}, c, Pair<V>{x0[m], x1[m]}, Pair<V>{y0, y1});
        left[m] = sum.a, right[m] = sum.b;
      } else {
        left[m] = Sim::add_slope(left[m], c, x0[m], y0), right[m] = Sim::add_slope(right[m], c, x1[m], y1);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    if (m >= rows) break;
    if (kPart) {
      store_part(out[m] + d, get(out[m] + d, n0) + left[m], n0);
      if (n1 > 0) store_part(out[m] + second, get(out[m] + second, n1) + right[m], n1);
    } else {
      store(out[m] + d, load(out[m] + d) + left[m]);
      store(out[m] + second, load(out[m] + second) + right[m]);
    }
  }
}

// out[m] += sum_k weights[k, m] slope(x_m, y_k), for `rows` <= kRows rows; weights packed as [count, kRows].
template <class Sim, class F>
static void slope_tile(const F* weights, const F* const* x, RowView<F> y, int64_t first, int64_t count, int64_t dim, int rows, F* const* out) {
  constexpr int kLanes = Tile<F>::kLanes;
  constexpr bool kComplex = Sim::kTag == Similarity::kModulus;
  const int64_t half = dim / 2, length = kComplex ? half : dim, step = kComplex ? kLanes : 2 * kLanes;
  int64_t d = 0;
  for (; d + step <= length; d += step) slope_block<Sim, false>(weights, x, y, first, count, half, d, step, rows, out);
  if (d < length) slope_block<Sim, true>(weights, x, y, first, count, half, d, length - d, rows, out);
}

// S[m, n] for queries [begin, end) of `packed` against rows [0, columns), written with leading dimension ld >= padded columns.
template <class Sim, class F>
static void score_matrix(const F* packed, int64_t queries, RowView<F> row, int64_t columns, int64_t dim, int threads, F* out,
                         int64_t ld) {
  constexpr int kRows = Tile<F>::kRows, kColumns = Tile<F>::kColumns;
  F* panels = scratch<F>(kPanel, kColumns * dim * threads);
  F* edges = scratch<F>(kEdge, int64_t(kRows) * kColumns * threads);
  parallel_for(columns, kColumns, threads, [&](int64_t begin, int64_t end, int worker) {
    F *panel = panels + kColumns * dim * worker, *edge = edges + kRows * kColumns * worker;
    pack_columns<F>(row, begin, end - begin, dim, panel);
    for (int64_t m = 0; m < queries; m += kRows) {
      if (m + kRows <= queries && end - begin == kColumns) {
        score_tile<Sim>(packed + m * dim, panel, dim, out + m * ld + begin, ld);
        continue;
      }
      score_tile<Sim>(packed + m * dim, panel, dim, edge, kColumns);
      for (int64_t i = 0; i < kRows && m + i < queries; ++i)
        for (int64_t j = 0; j < end - begin; ++j) out[(m + i) * ld + begin + j] = edge[i * kColumns + j];
    }
  });
}

// out[i] += sum_k G[i, k] slope(x(i), y(k)), with G at g[i * g_row + k * g_column]. Each worker keeps a block of y in
// its cache while it passes over its rows; the order of k is the same whatever the number of workers.
template <class Sim, class F>
static void slope_matrix(const F* g, int64_t g_row, int64_t g_column, RowView<F> x, int64_t x_count, RowView<F> y,
                         int64_t y_count, int64_t dim, int threads, F* out) {
  constexpr int kRows = Tile<F>::kRows;
  constexpr int64_t kBlock = 384;
  if (x_count == 0) return;
  F* packs = scratch<F>(kWeights, kBlock * kRows * threads);
  const int64_t panels = (x_count + kRows - 1) / kRows, pieces = 4 * threads;
  parallel_for(panels, (panels + pieces - 1) / pieces, threads, [&](int64_t first, int64_t last, int worker) {
    F* weights = packs + kBlock * kRows * worker;
    for (int64_t k0 = 0; k0 < y_count; k0 += kBlock) {
      const int64_t count = y_count - k0 < kBlock ? y_count - k0 : kBlock;
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t begin = panel * kRows;
        const int rows = int(x_count - begin < kRows ? x_count - begin : kRows);
        const F* xs[kRows];
        F* outs[kRows];
        for (int m = 0; m < kRows; ++m) {
          const int64_t i = begin + (m < rows ? m : rows - 1);
          xs[m] = x(i), outs[m] = out + i * dim;
        }
        const F* corner = g + begin * g_row + k0 * g_column;
        for (int m = 0; m < kRows; ++m)
          for (int64_t k = 0; k < count; ++k) weights[k * kRows + m] = m < rows ? corner[m * g_row + k * g_column] : F(0);
        slope_tile<Sim, F>(weights, xs, y, k0, count, dim, rows, outs);
      }
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
