// Filtered rank and top-k: one scan over tiles of candidates, in which nothing of size [batch, candidates] is kept.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// visit(query, tile row, first candidate, count) for all queries and tiles; a query is seen by one worker, tiles
// ascending.
template <class Sim, class F, class Visit>
static void scan(const ScanArguments<F>& a, const F* packed, Visit visit) {
  constexpr int kRows = Tile<F>::kRows, kColumns = Tile<F>::kColumns;
  if (a.batch == 0) return;
  F* panels = scratch<F>(kPanel, kColumns * a.dim * a.threads);
  F* tiles = scratch<F>(kEdge, int64_t(kRows) * kColumns * a.threads);
  const int64_t blocks = (a.batch + kRows - 1) / kRows;
  parallel_for(blocks, (blocks + a.threads - 1) / a.threads, a.threads, [&](int64_t begin, int64_t end, int worker) {
    F *panel = panels + kColumns * a.dim * worker, *tile = tiles + kRows * kColumns * worker;
    for (int64_t n0 = 0; n0 < a.count; n0 += kColumns) {
      const int64_t count = a.count - n0 < kColumns ? a.count - n0 : kColumns;
      pack_columns<F>({a.table, nullptr, a.dim}, n0, count, a.dim, panel);
      for (int64_t block = begin; block < end; ++block) {
        score_tile<Sim>(packed + block * kRows * a.dim, panel, a.dim, tile, kColumns);
        for (int64_t m = 0; m < kRows && block * kRows + m < a.batch; ++m)
          visit(block * kRows + m, tile + m * kColumns, n0, count);
      }
    }
  });
}

template <class F> static F* pack_queries(const ScanArguments<F>& a) {
  F* packed = scratch<F>(kPacked, packed_rows<F>(a.batch) * a.dim);
  pack_rows<F>({a.query, nullptr, a.dim}, a.batch, a.dim, a.threads, packed);
  return packed;
}

// The number of other candidates above and level with the target. The target's score comes from a tile of the same
// arithmetic, so it equals its own entry of the table bit for bit. A NaN candidate counts as above.
template <class Sim, class F>
static void rank(const ScanArguments<F>& a, const int64_t* targets, int64_t* greater, int64_t* equal,
                 F* target_scores) {
  constexpr int kRows = Tile<F>::kRows, kColumns = Tile<F>::kColumns;
  static_assert(kRows <= kColumns, "targets of a block of queries must fit in one panel");
  const F* packed = pack_queries(a);
  F* panels = scratch<F>(kTargets, kColumns * a.dim * a.threads);
  F* tiles = scratch<F>(kEdge, int64_t(kRows) * kColumns * a.threads);
  parallel_for(a.batch, kRows, a.threads, [&](int64_t begin, int64_t end, int worker) {
    F *panel = panels + kColumns * a.dim * worker, *tile = tiles + kRows * kColumns * worker;
    pack_columns<F>({a.table, targets, a.dim}, begin, end - begin, a.dim, panel);
    score_tile<Sim>(packed + begin * a.dim, panel, a.dim, tile, kColumns);
    for (int64_t b = begin; b < end; ++b) target_scores[b] = tile[(b - begin) * kColumns + (b - begin)];
  });
  for (int64_t b = 0; b < a.batch; ++b) greater[b] = 0, equal[b] = -1;  // the target itself is level
  int64_t* cursors = scratch<int64_t>(kHistogram, a.batch);
  for (int64_t b = 0; b < a.batch; ++b) cursors[b] = a.known.starts ? a.known.starts[b] : 0;
  scan<Sim>(a, packed, [&](int64_t b, const F* scores, int64_t n0, int64_t count) {
    const F own = target_scores[b];
    int above = 0, level = 0;
    if (count == kColumns) {
#pragma omp simd reduction(+ : above, level)
      for (int n = 0; n < kColumns; ++n) above += !(scores[n] <= own), level += scores[n] == own;
    } else {
      for (int n = 0; n < count; ++n) above += !(scores[n] <= own), level += scores[n] == own;
    }
    if (a.known.starts)
      for (int64_t& k = cursors[b]; k < a.known.ends[b] && a.known.ids[k] < n0 + count; ++k) {
        if (a.known.ids[k] == targets[b]) continue;
        const F score = scores[a.known.ids[k] - n0];
        above -= !(score <= own), level -= score == own;
      }
    greater[b] += above, equal[b] += level;
  });
}

// The k best candidates that are not excluded, best first, ties by lower id: a heap per query whose root is the worst
// kept. Where a score is NaN, that candidate comes first, so that the caller sees it.
template <class Sim, class F>
static void topk(const ScanArguments<F>& a, int64_t k, F* scores, int64_t* ids) {
  const F* packed = pack_queries(a);
  int64_t* cursors = scratch<int64_t>(kHistogram, 3 * a.batch);
  int64_t *sizes = cursors + a.batch, *broken = sizes + a.batch;
  for (int64_t b = 0; b < a.batch; ++b)
    cursors[b] = a.known.starts ? a.known.starts[b] : 0, sizes[b] = 0, broken[b] = -1;
  auto worse = [](F s, int64_t i, F t, int64_t j) { return s < t || (s == t && i > j); };
  auto sink_root = [&](F* s, int64_t* id, int64_t size, F score, int64_t candidate) {
    int64_t hole = 0;
    for (int64_t child; (child = 2 * hole + 1) < size; hole = child) {
      if (child + 1 < size && worse(s[child + 1], id[child + 1], s[child], id[child])) ++child;
      if (!worse(s[child], id[child], score, candidate)) break;
      s[hole] = s[child], id[hole] = id[child];
    }
    s[hole] = score, id[hole] = candidate;
  };
  scan<Sim>(a, packed, [&](int64_t b, const F* tile, int64_t n0, int64_t count) {
    F* s = scores + b * k;
    int64_t *id = ids + b * k, &size = sizes[b], &cursor = cursors[b];
    for (int64_t n = 0; n < count; ++n) {
      if (a.known.starts) {
        while (cursor < a.known.ends[b] && a.known.ids[cursor] < n0 + n) ++cursor;
        if (cursor < a.known.ends[b] && a.known.ids[cursor] == n0 + n) continue;
      }
      if (tile[n] != tile[n]) {
        broken[b] = n0 + n;
        continue;
      }
      if (size == k) {
        if (tile[n] > s[0]) sink_root(s, id, size, tile[n], n0 + n);
        continue;
      }
      int64_t hole = size++;
      while (hole > 0) {
        const int64_t parent = (hole - 1) / 2;
        if (!worse(tile[n], n0 + n, s[parent], id[parent])) break;
        s[hole] = s[parent], id[hole] = id[parent], hole = parent;
      }
      s[hole] = tile[n], id[hole] = n0 + n;
    }
  });
  parallel_for(a.batch, 16, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      F* s = scores + b * k;
      int64_t* id = ids + b * k;
      for (int64_t last = sizes[b] - 1; last > 0; --last) {  // heap sort: the worst goes to the back
        const F score = s[last];
        const int64_t candidate = id[last];
        s[last] = s[0], id[last] = id[0];
        sink_root(s, id, last, score, candidate);
      }
      for (int64_t i = sizes[b]; i < k; ++i) s[i] = -std::numeric_limits<F>::infinity(), id[i] = -1;
      if (broken[b] >= 0) s[0] = std::numeric_limits<F>::quiet_NaN(), id[0] = broken[b];
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
