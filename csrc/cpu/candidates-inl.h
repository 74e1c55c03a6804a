// Losses over all candidates: score tiles, log-sum-exp and gradients, a bounded workspace of scores at a time.
// Where the scores of a chunk of queries fit in the workspace they are computed once; else once more for the gradient.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

template <class Sim, class F>
struct CandidateChunk {
  const CandidateArguments<F>& a;
  const CandidateResults<F>& out;
  int64_t first, rows, width, ld;  // queries [first, first + rows), tiles of `width` candidates, leading dimension ld
  F *packed, *scores, *largest, *total, *sum;
  static constexpr bool kHalf = Sim::kTag == Similarity::kDot && std::is_same_v<F, float>;

  RowView<F> queries() const { return {a.query + first * a.dim, nullptr, a.dim}; }
  RowView<F> candidates(int64_t n0) const { return {a.table + n0 * a.dim, nullptr, a.dim}; }

  void score(int64_t n0, int64_t columns) const {
#if KGFAST_VECTOR_BYTES == 64
    if constexpr (kHalf)
      if (a.bf16)
        return half_score_matrix(a.query + first * a.dim, rows, a.table + n0 * a.dim, columns, a.dim, a.threads, packed, scores, ld);
#endif
    score_matrix<Sim>(packed, rows, candidates(n0), columns, a.dim, a.threads, scores, ld);
  }

  // Adds the bias to a row of scores and -inf past its end; returns the largest, at least `top`.
  F finish_scores(int64_t i, int64_t n0, int64_t columns, F top) const {
    constexpr int kLanes = Lanes<F>::kCount;
    F* row = scores + i * ld;
    for (int64_t n = columns, padded = padded_count<F>(columns); n < padded; ++n) row[n] = -std::numeric_limits<F>::infinity();
    auto largest_of = splat(top);
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) {
      auto s = load(row + n);
      if (a.bias) s += load(a.bias + n0 + n), store(row + n, s);
      largest_of = larger(s, largest_of);
    }
    F most = largest_lane(largest_of);
    for (; n < columns; ++n) {
      if (a.bias) row[n] += a.bias[n0 + n];
      most = row[n] > most ? row[n] : most;
    }
    return most;
  }

  // Answers of query i among candidates [n0, n0 + columns): a range of the ascending ids.
  void answers_in(int64_t i, int64_t n0, int64_t columns, int64_t& begin, int64_t& end) const {
    const int64_t b = first + i;
    begin = a.answers.starts[b];
    const int64_t stop = a.answers.ends[b];
    while (begin < stop && a.answers.ids[begin] < n0) ++begin;
    for (end = begin; end < stop && a.answers.ids[end] < n0 + columns; ++end) {
    }
  }
  F label(int64_t i) const {
    const int64_t b = first + i, answers = a.answers.ends[b] - a.answers.starts[b];
    return a.objective == Objective::kSoftmax ? (1 - a.smoothing) / F(answers) : 1 - a.smoothing;
  }
  bool counts(int64_t i) const {
    const int64_t b = first + i;
    return a.weights[b] != 0 && (a.objective == Objective::kBce || a.answers.ends[b] > a.answers.starts[b]);
  }

  // Adds a tile's part to the losses; softmax keeps a running (largest, total) per query.
  void accumulate(int64_t n0, int64_t columns) const {
    const int64_t padded = padded_count<F>(columns);
    constexpr int kLanes = Lanes<F>::kCount;
    const F floor = a.smoothing / F(a.count);
    parallel_for(rows, 8, a.threads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const F now = finish_scores(i, n0, columns, largest[i]);
        if (!counts(i)) continue;
        const F* row = scores + i * ld;
        int64_t k, stop;
        answers_in(i, n0, columns, k, stop);
        F right = 0;
        for (; k < stop; ++k) right += row[a.answers.ids[k] - n0];
        sum[i] += label(i) * right;
        if (floor != 0) {
          F all = 0;
          for (int64_t n = 0; n < columns; ++n) all += row[n];
          sum[i] += floor * all;
        }
        typename Lanes<F>::V part{};
        if (a.objective == Objective::kSoftmax) {
          for (int64_t n = 0; n < padded; n += kLanes) part += exponential(load(row + n) - now);
          total[i] = total[i] * std::exp(largest[i] - now) + sum_lanes(part);
          largest[i] = now;
        } else {
          typename Lanes<F>::V slope;
          for (int64_t n = 0; n < padded; n += kLanes) part += softplus(load(row + n), slope);
          total[i] += sum_lanes(part);
        }
      }
    });
  }

  void finish() const {
    for (int64_t i = 0; i < rows; ++i) {
      const F weight = a.weights[first + i];
      F loss = 0;
      if (counts(i)) loss = a.objective == Objective::kSoftmax ? largest[i] - sum[i] + std::log(total[i]) : (total[i] - sum[i]) / F(a.count);
      out.losses[first + i] = loss * weight;
    }
  }

  // Scores become dL/dscore in place, then both gradients are two more tile products.
  void gradients(int64_t n0, int64_t columns, bool fresh) const {
    const int64_t padded = padded_count<F>(columns);
    constexpr int kLanes = Lanes<F>::kCount;
    const F floor = a.smoothing / F(a.count);
    parallel_for(rows, 8, a.threads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        F* row = scores + i * ld;
        if (!counts(i)) {
          for (int64_t n = 0; n < columns; ++n) row[n] = 0;
          continue;
        }
        if (fresh) finish_scores(i, n0, columns, 0);
        const bool softmax = a.objective == Objective::kSoftmax;
        const F weight = a.weights[first + i] / (softmax ? F(1) : F(a.count)), own = label(i) * weight;
        int64_t k, stop;
        answers_in(i, n0, columns, k, stop);
        const F shift = softmax ? largest[i] : F(0), scale = softmax ? weight / total[i] : weight, away = floor * weight;
        for (int64_t n = 0; n < padded; n += kLanes) {
          const auto s = load(row + n);
          typename Lanes<F>::V g;
          if (softmax) g = exponential(s - shift) * scale - away;
          else softplus(s, g), g = g * scale - away;
          if constexpr (Sim::kTag == Similarity::kL2) {
            // the answers' coefficients need their scores, which this overwrites: divide by s only here
            g = s < 0 ? g / s : typename Lanes<F>::V{};
            for (int64_t j = k; j < stop && a.answers.ids[j] - n0 < n + kLanes; ++j)
              if (a.answers.ids[j] - n0 >= n) {
                const F score = s[a.answers.ids[j] - n0 - n];
                if (score < 0) g[a.answers.ids[j] - n0 - n] -= own / score;
              }
          }
          store(row + n, g);
        }
        if constexpr (Sim::kTag != Similarity::kL2)
          for (; k < stop; ++k) row[a.answers.ids[k] - n0] -= own;
      }
    });
#if KGFAST_VECTOR_BYTES == 64
    if constexpr (kHalf)
      if (a.bf16) {
        const F *table = a.table + n0 * a.dim, *query = a.query + first * a.dim;
        half_slope_matrix(scores, ld, 1, rows, table, columns, a.dim, a.threads, out.d_query + first * a.dim);
        half_slope_matrix(scores, 1, ld, columns, query, rows, a.dim, a.threads, out.d_table + n0 * a.dim);
        return bias_gradient(n0, columns);
      }
#endif
    add_gradients<Sim>(scores, ld, queries(), rows, candidates(n0), columns, a.dim, a.threads, out.d_query + first * a.dim,
                       out.d_table + n0 * a.dim);
    bias_gradient(n0, columns);
  }

  void bias_gradient(int64_t n0, int64_t columns) const {
    if (out.d_bias)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t n = 0; n < columns; ++n) out.d_bias[n0 + n] += scores[i * ld + n];
  }
};

template <class Sim, class F>
static void candidate_loss(const CandidateArguments<F>& a, const CandidateResults<F>& out) {
  if (a.batch == 0) return;
  const bool wants_gradient = out.d_query != nullptr;
  // as many queries at a time as leave room for all their scores; with fewer than 96 tables would be walked too often
  constexpr int64_t kRows = Tile<F>::kRows, kColumns = Tile<F>::kColumns;
  int64_t most = a.workspace / padded_count<F>(a.count) / kRows * kRows;
  most = most < 96 ? 96 / kRows * kRows : (most > 384 ? 384 / kRows * kRows : most);
  if (most > a.batch) most = packed_rows<F>(a.batch);
  int64_t width = a.workspace / most / kColumns * kColumns;
  if (width < 1024) width = 1024;
  if (width > a.count) width = a.count;
  const int64_t ld = padded_count<F>(width);
  F* packed = scratch<F>(kPacked, packed_rows<F>(most) * ((a.dim + 31) / 32 * 32));
  F* scores = scratch<F>(kCandidates, most * ld);
  F* running = scratch<F>(kGradient, 3 * most);
  for (int64_t first = 0; first < a.batch; first += most) {
    const int64_t rows = a.batch - first < most ? a.batch - first : most;
    CandidateChunk<Sim, F> chunk{a, out, first, rows, width, ld, packed, scores, running, running + most, running + 2 * most};
    for (int64_t i = 0; i < rows; ++i)
      chunk.largest[i] = -std::numeric_limits<F>::max(), chunk.total[i] = 0, chunk.sum[i] = 0;
    pack_rows<F>(chunk.queries(), rows, a.dim, a.threads, packed);
    for (int64_t n0 = 0; n0 < a.count; n0 += width) {
      const int64_t columns = a.count - n0 < width ? a.count - n0 : width;
      chunk.score(n0, columns);
      chunk.accumulate(n0, columns);
    }
    chunk.finish();
    if (!wants_gradient) continue;
    for (int64_t n0 = 0; n0 < a.count; n0 += width) {
      const int64_t columns = a.count - n0 < width ? a.count - n0 : width;
      if (width < a.count) chunk.score(n0, columns);
      chunk.gradients(n0, columns, width < a.count);
    }
  }
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
