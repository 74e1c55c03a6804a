// Tiles: many queries against many rows. A score tile keeps kRows x kColumns sums in registers and walks d once;
// lanes run over candidates, so every score is the same chain of operations wherever its row lies in the tile.
// A product block keeps kRows x (two vectors of d) and walks the other side's rows: dQ and, transposed, dE of dot
// products.
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

// [count, dim] rows (contiguous, or gathered through pointers) -> ceil(count / width) panels of [dim, width], zero
// padded.
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
// 16 rows at a time through registers: four times faster than the scalar transposition, which would show for small
// batches.
static inline void transpose16(const float* const* rows, int64_t d, float* out, int64_t out_stride) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(rows[i] + d);
  for (int i = 0; i < 16; i += 2)
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88),
          t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(out + (i)*out_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
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
  if constexpr (Sim::kComplex) {
    const int64_t half = dim / 2;
    for (int c = 0; c < 2; ++c) {  // one vector of columns at a time: a complex coordinate needs twice the registers
      V sum[kRows] = {};
      const F* column = rows + c * kLanes;
      for (int64_t d = 0; d < half; ++d) {
        const Pair<V> e{load(column + d * kColumns), load(column + (d + half) * kColumns)};
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m)
          sum[m] = Sim::accumulate(sum[m],
                                   Pair<V>{splat(queries[d * kRows + m]), splat(queries[(d + half) * kRows + m])}, e);
      }
      for (int m = 0; m < kRows; ++m) store(out + m * ld + c * kLanes, Sim::score(sum[m]));
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
      store(out + m * ld, Sim::score(left[m]));
      store(out + m * ld + kLanes, Sim::score(right[m]));
    }
  }
}

// Where the weights of row m and weight k stand in a packed block: a whole vector a k where one transposes by
// vectors.
template <class F> struct Weights {
  static constexpr bool kByVectors = KGFAST_VECTOR_BYTES == 64 && std::is_same_v<F, float>;
  static constexpr int kStride = kByVectors ? Lanes<F>::kCount : Tile<F>::kRows;
};

// out[m, d..] += sum_k weights[k, m] y_k for two vectors of d; `y` holds those of each of `count` rows, zero past the
// end. n: coordinates in them (kPart: fewer than two vectors; kOne: at most one).
template <bool kPart, bool kOne, class F>
static inline void product_block(const F* weights, const F* y, int64_t count, int64_t n, int rows, F* const* out) {
  constexpr int kRows = Tile<F>::kRows, kLanes = Tile<F>::kLanes;
  using V = typename Lanes<F>::V;
  V left[kRows] = {}, right[kRows] = {};
  for (int64_t k = 0; k < count; ++k) {
    const V y0 = load(y + k * 2 * kLanes), y1 = load(y + k * 2 * kLanes + kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const V c = splat(weights[k * Weights<F>::kStride + m]);
      left[m] += c * y0;
      if constexpr (!kOne) right[m] += c * y1;
    }
  }
  const int64_t n0 = n < kLanes ? n : kLanes, n1 = n - n0;
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    if (m >= rows) break;
    if (kPart) {
      store_part(out[m], load_part(out[m], n0) + left[m], n0);
      if (!kOne) store_part(out[m] + kLanes, load_part(out[m] + kLanes, n1) + right[m], n1);
    } else {
      store(out[m], load(out[m]) + left[m]);
      store(out[m] + kLanes, load(out[m] + kLanes) + right[m]);
    }
  }
}

// A panel of rows at `out`, at the two vectors of d from `d` on.
template <class F>
static inline void product_panel(const F* weights, const F* y, int64_t count, int64_t dim, int64_t d, int rows,
                                 F* out) {
  constexpr int kRows = Tile<F>::kRows, kLanes = Tile<F>::kLanes;
  const int64_t n = dim - d < 2 * kLanes ? dim - d : 2 * kLanes;
  F* outs[kRows];
  for (int m = 0; m < kRows; ++m) {
    outs[m] = out + (m < rows ? m : rows - 1) * dim + d;
    __builtin_prefetch(outs[m], 1), __builtin_prefetch(outs[m] + kLanes, 1);
  }
  if (n == 2 * kLanes) product_block<false, false>(weights, y, count, n, rows, outs);
  else if (n > kLanes) product_block<true, false>(weights, y, count, n, rows, outs);
  else product_block<true, true>(weights, y, count, n, rows, outs);
}

// Rows [begin, end) of a span of `count` rows: for each two vectors of d, those of every row. A walk over k is then one
// stream.
template <class F>
static void pack_span(RowView<F> y, int64_t first, int64_t begin, int64_t end, int64_t count, int64_t dim, F* out) {
  constexpr int kLanes = Tile<F>::kLanes, kWidth = 2 * kLanes;
  for (int64_t k = begin; k < end; ++k) {
    const F* row = y(first + k);
    for (int64_t d = 0; d < dim; d += kWidth)
      for (int64_t e = d; e < d + kWidth; e += kLanes)
        store(out + (d * count + k * kWidth + e - d),
              dim - e >= kLanes ? load(row + e) : (dim > e ? load_part(row + e, dim - e) : typename Lanes<F>::V{}));
  }
}

// weights[k, m] = g[m * g_row + k * g_column] for m < rows, else 0.
template <class F>
static void pack_weights(const F* g, int64_t g_row, int64_t g_column, int rows, int64_t count, F* out) {
  constexpr int kRows = Tile<F>::kRows, kStride = Weights<F>::kStride;
  int64_t k = 0;
#if KGFAST_VECTOR_BYTES == 64
  if constexpr (Weights<F>::kByVectors) {
    if (g_column == 1) {
      static const float zeros[16] = {};
      for (; k + 16 <= count; k += 16) {
        const float* from[16];
        for (int m = 0; m < 16; ++m) from[m] = m < rows ? g + m * g_row + k : zeros;
        transpose16(from, 0, out + k * kStride, kStride);
      }
    } else if (g_row == 1) {
      for (; k < count; ++k) store(out + k * kStride, load_part(g + k * g_column, rows));
    }
  }
#endif
  for (; k < count; ++k)
    for (int m = 0; m < kRows; ++m) out[k * kStride + m] = m < rows ? g[m * g_row + k * g_column] : F(0);
}

// S[m, n] for queries [begin, end) of `packed` against rows [0, columns), written with leading dimension ld >= padded
// columns.
template <class Sim, class F>
static void score_matrix(const F* packed, int64_t queries, RowView<F> row, int64_t columns, int64_t dim, int threads,
                         F* out, int64_t ld) {
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

// out[i] += sum_k G[i, k] y(k), with G at g[i * g_row + k * g_column]. Each worker keeps a packed block of y in its
// cache while it passes over its rows; the order of k is the same whatever the number of workers.
template <class F>
static void product_matrix(const F* g, int64_t g_row, int64_t g_column, int64_t x_count, RowView<F> y, int64_t y_count,
                           int64_t dim, int threads, F* out) {
  constexpr int kRows = Tile<F>::kRows, kLanes = Tile<F>::kLanes;
  constexpr int64_t kBlock = 256;
  if (x_count == 0) return;
  const int64_t blocks = (dim + 2 * kLanes - 1) / (2 * kLanes), panel_size = kBlock * 2 * kLanes * blocks;
  const int64_t own = kBlock * Weights<F>::kStride + panel_size;
  F* packs = scratch<F>(kWeights, own * threads);
  // every piece packs all of y: few pieces where that would show
  const int64_t panels = (x_count + kRows - 1) / kRows, pieces = x_count < 4 * y_count ? threads : 4 * threads;
  parallel_for(panels, (panels + pieces - 1) / pieces, threads, [&](int64_t first, int64_t last, int worker) {
    F *packed = packs + own * worker, *weights = packed + panel_size;
    for (int64_t k0 = 0; k0 < y_count; k0 += kBlock) {
      const int64_t count = y_count - k0 < kBlock ? y_count - k0 : kBlock;
      pack_span<F>(y, k0, 0, count, count, dim, packed);
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t begin = panel * kRows;
        const int rows = int(x_count - begin < kRows ? x_count - begin : kRows);
        pack_weights<F>(g + begin * g_row + k0 * g_column, g_row, g_column, rows, count, weights);
        for (int64_t d = 0; d < dim; d += 2 * kLanes)
          product_panel(weights, packed + d * count, count, dim, d, rows, out + begin * dim);
      }
    }
  });
}

// Memory that will be read soon, fetched a few lines at a time by those who work meanwhile.
struct Ahead {
  const char *next, *end;
  int64_t lines;  // at a time
  Ahead(const void* from, int64_t bytes, int64_t times)
      : next(static_cast<const char*>(from)), end(next + bytes), lines(bytes / 64 / (times < 1 ? 1 : times) + 1) {}
  __attribute__((always_inline)) void some() {
    for (int64_t line = 0; line < lines && next < end; ++line, next += 64) __builtin_prefetch(next, 0, 2);
  }
};

// What one worker does with a block of queries and a group of candidates: scores, and products with their gradients.
// bf16-inl.h has the same on bfloat16 operands.
template <class Sim, class F> struct Blocks {
  static constexpr int kRows = Tile<F>::kRows, kColumns = Tile<F>::kColumns, kWidth = 2 * Tile<F>::kLanes;
  static constexpr int64_t kSpan =
      192;  // rows of an operand in a packed span: their two vectors of d stay in the L1 cache

  static int64_t queries_size(int64_t rows, int64_t dim) { return packed_rows<F>(rows) * dim; }
  static int64_t panel_size(int64_t dim) { return kColumns * dim; }
  static int64_t span_size(int64_t rows, int64_t dim) { return rows * ((dim + kWidth - 1) / kWidth * kWidth); }
  static constexpr int64_t kWeights = kSpan / kRows * kSpan * Weights<F>::kStride;

  // The panel of queries from `begin` on, for score tiles.
  static void pack_queries(RowView<F> rows, int64_t begin, int64_t count, int64_t dim, F*, F* packed) {
    pack_panel<F>(rows, begin, count - begin < kRows ? count - begin : kRows, dim, kRows, packed + begin * dim);
  }
  // out[m, n] (leading dimension ld) of all panels of queries and at most kColumns candidates from `begin` on.
  static void score(const F* packed, int64_t queries, RowView<F> row, int64_t begin, int64_t columns, int64_t dim,
                    F* panel, F* out, int64_t ld, Ahead& ahead) {
    pack_columns<F>(row, begin, columns, dim, panel);
    for (int64_t m = 0; m < queries; m += kRows)
      ahead.some(), score_tile<Sim>(packed + m * dim, panel, dim, out + m * ld, ld);
  }
  static void pack_span(const F* rows, int64_t begin, int64_t end, int64_t count, int64_t dim, F* out) {
    KGFAST_LEVEL::pack_span<F>({rows, nullptr, dim}, 0, begin, end, count, dim, out);
  }
  // out[i] += sum_k g[i * g_row + k * g_column] y_k for the rows y of packed spans.
  static void add_products(const F* g, int64_t g_row, int64_t g_column, int64_t x_count, const F* y, int64_t y_count,
                           int64_t dim, F* weights, F* out, Ahead& ahead) {
    for (int64_t x0 = 0; x0 < x_count; x0 += kSpan)
      for (int64_t k0 = 0; k0 < y_count; k0 += kSpan) {
        const int64_t rows = x_count - x0 < kSpan ? x_count - x0 : kSpan,
                      count = y_count - k0 < kSpan ? y_count - k0 : kSpan;
        const int64_t stride = count * Weights<F>::kStride;
        for (int64_t i = 0; i < rows; i += kRows)
          pack_weights<F>(g + (x0 + i) * g_row + k0 * g_column, g_row, g_column,
                          int(rows - i < kRows ? rows - i : kRows), count, weights + i / kRows * stride);
        for (int64_t d = 0; d < dim; d += kWidth) {
          const F* part = y + span_size(k0, dim) + d * count;
          for (int64_t i = 0; i < rows; i += kRows, ahead.some())
            product_panel(weights + i / kRows * stride, part, count, dim, d, int(rows - i < kRows ? rows - i : kRows),
                          out + (x0 + i) * dim);
        }
      }
  }
};

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
