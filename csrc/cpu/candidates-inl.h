// Losses over all candidates. Queries come in chunks, candidates in slots, slots in groups: a worker takes a slot and,
// group by group while its scores are in the cache, makes scores and running sums; then, in a second visit, dL/dscore
// and both gradients. Between the visits a chunk's scores stay in a bounded workspace; where too few would fit they are
// made again. Where queries are many and candidates few, each worker takes queries instead, with all candidates.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

template <class Blocks, class Sim, class F>
struct CandidateChunk {
  const CandidateArguments<F>& a;
  const CandidateResults<F>& out;
  // Sizes of all chunks. A group is `width` candidates wide, and so are rows of its scores.
  int64_t rows_most = 0, width = 0, groups = 0, slots = 0, own = 0;
  bool kept = false;  // scores of all groups, else of a worker's
  // Workspaces: queries for tiles and as spans; scores by group; sums by slot; by worker: gradients of queries, and the
  // rest
  F *queries = nullptr, *spans = nullptr, *scores = nullptr, *sums = nullptr, *d_queries = nullptr, *workers = nullptr;
  F* rivals = nullptr;  // how many candidates of a query compete, where some don't
  // This chunk: queries [first, first + rows); the slot whose gradients of queries are the next to be added
  int64_t first = 0, rows = 0, turn = 0;

  static constexpr int kLanes = Lanes<F>::kCount;
  static constexpr bool kMatrixProduct = Sim::kMatrixProduct;
  using V = typename Lanes<F>::V;

  const F* query() const { return a.query + first * a.dim; }
  F* worker_at(int worker) const { return workers + own * worker; }
  F* block_of(int64_t group, int worker) const { return scores + (kept ? group : worker) * rows_most * width; }
  // sums of a slot, one of each per query; after merge_sums() those of slot 0 are of all candidates
  F* largest_of(int64_t slot) const { return sums + 3 * slot * rows_most; }
  F* total_of(int64_t slot) const { return largest_of(slot) + rows_most; }
  F* right_of(int64_t slot) const { return largest_of(slot) + 2 * rows_most; }
  int64_t columns_of(int64_t group) const { return a.count - group * width < width ? a.count - group * width : width; }
  template <class Visit, class End> void for_slots(Visit visit, End end) {
    parallel_for(slots, 1, a.threads, [&](int64_t slot, int64_t, int worker) {
      for (int64_t group = slot * groups / slots; group < (slot + 1) * groups / slots; ++group)
        visit(slot, group, columns_of(group), block_of(group, worker), worker);
      end(slot, worker);
    });
  }

  template <class Of> F label(int64_t i) const {
    return Of::label(a.smoothing, a.answers.ends[first + i] - a.answers.starts[first + i]);
  }
  // How many candidates of query i compete.
  F competing(int64_t i) const { return rivals ? rivals[i] : F(a.count); }
  F floor_of(int64_t i) const { return a.smoothing == 0 ? F(0) : a.smoothing / competing(i); }
  template <class Of> bool counts(int64_t i) const {
    const int64_t b = first + i;
    return a.weights[b] != 0 && (Of::kCompetes ? a.answers.ends[b] > a.answers.starts[b] : competing(i) > 0);
  }
  // Calls visit(column) for the answers of query i in a group: a range of its ascending ids.
  template <class Visit> void for_answers(int64_t i, int64_t n0, int64_t columns, Visit visit) const {
    const int64_t stop = a.answers.ends[first + i];
    int64_t k = lower_bound(a.answers.ids, a.answers.starts[first + i], stop, n0);
    for (; k < stop && a.answers.ids[k] < n0 + columns; ++k) visit(a.answers.ids[k] - n0);
  }
  // Calls visit(column), once and ascending, for the known candidates of query i that are no answers.
  template <class Visit> void for_left_out(int64_t i, int64_t n0, int64_t columns, Visit visit) const {
    if (!a.known.starts) return;
    const int64_t b = first + i, stop = a.known.ends[b], last = a.answers.ends[b];
    int64_t k = lower_bound(a.known.ids, a.known.starts[b], stop, n0), before = -1;
    int64_t answer = lower_bound(a.answers.ids, a.answers.starts[b], last, n0);
    for (; k < stop && a.known.ids[k] < n0 + columns; before = a.known.ids[k++]) {
      while (answer < last && a.answers.ids[answer] < a.known.ids[k]) ++answer;
      const bool right = answer < last && a.answers.ids[answer] == a.known.ids[k];
      if (!right && a.known.ids[k] != before) visit(a.known.ids[k] - n0);
    }
  }
  void count_rivals() const {
    if (!rivals) return;
    parallel_for(rows, 64, a.threads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        rivals[i] = F(a.count);
        for_left_out(i, 0, a.count, [&](int64_t) { rivals[i] -= 1; });
      }
    });
  }

  void pack() const {
    parallel_for(rows, Blocks::kRows, a.threads, [&](int64_t begin, int64_t end, int worker) {
      Blocks::pack_queries({query(), nullptr, a.dim}, begin, rows, a.dim, worker_at(worker), queries);
      if (!kMatrixProduct || !out.d_query) return;
      const int64_t span = begin / Blocks::kSpan * Blocks::kSpan,
                    count = rows - span < Blocks::kSpan ? rows - span : Blocks::kSpan;
      Blocks::pack_span(query() + span * a.dim, begin - span, end - span, count, a.dim,
                        spans + Blocks::span_size(span, a.dim));
    });
  }

  // Candidates [begin, begin + count), to be fetched in so many times.
  Ahead ahead(int64_t begin, int64_t count, int64_t times) const {
    const int64_t from = begin < a.count ? begin : a.count, left = a.count - from;
    return Ahead(a.table + from * a.dim, (left < count ? left : count) * a.dim * int64_t(sizeof(F)), times);
  }

  void score(int64_t group, int64_t columns, F* block, int worker) const {
    const RowView<F> candidates{a.table + group * width * a.dim, nullptr, a.dim};
    for (int64_t n = 0; n < columns; n += Blocks::kColumns) {
      Ahead next = ahead(group * width + n + Blocks::kColumns, Blocks::kColumns, rows / Blocks::kRows);
      Blocks::score(queries, rows, candidates, n, columns - n < Blocks::kColumns ? columns - n : Blocks::kColumns,
                    a.dim, worker_at(worker), block + n, width, next);
    }
  }

  // Adds the bias to the scores of query i, -inf past their end and where a candidate does not compete; returns the
  // largest, at least `top`.
  F finish_scores(int64_t i, F* row, int64_t n0, int64_t columns, F top) const {
    constexpr F kNone = -std::numeric_limits<F>::infinity();
    for (int64_t n = columns, padded = padded_count<F>(columns); n < padded; ++n) row[n] = kNone;
    for_left_out(i, n0, columns, [&](int64_t n) { row[n] = kNone; });
    auto largest = splat(top);
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) {
      auto s = load(row + n);
      if (a.bias) s += load(a.bias + n0 + n), store(row + n, s);
      largest = larger(s, largest);
    }
    F most = largest_lane(largest);
    for (; n < columns; ++n) {
      if (a.bias) row[n] += a.bias[n0 + n];
      most = row[n] > most ? row[n] : most;
    }
    return most;
  }

  F sum_of_competing(int64_t i, const F* row, int64_t n0, int64_t columns) const {
    F sum = 0;
    int64_t n = 0;
    auto add_until = [&](int64_t stop) {
      for (; n < stop; ++n) sum += row[n];
    };
    for_left_out(i, n0, columns, [&](int64_t out) { add_until(out), n = out + 1; });
    add_until(columns);
    return sum;
  }

  // Adds a group's scores to the sums of its slot; where they compete a running (largest, total) per query is kept.
  template <class Of> void add_sums(int64_t slot, int64_t group, int64_t columns, F* block) const {
    const int64_t n0 = group * width, padded = padded_count<F>(columns);
    F *largest = largest_of(slot), *total = total_of(slot), *right = right_of(slot);
    const bool begins = group == slot * groups / slots;
    for (int64_t i = 0; i < rows; ++i) {
      if (begins) largest[i] = -std::numeric_limits<F>::max(), total[i] = 0, right[i] = 0;
      F* row = block + i * width;
      const F now = finish_scores(i, row, n0, columns, largest[i]);
      if (!counts<Of>(i)) continue;
      F answers = 0;
      for_answers(i, n0, columns, [&](int64_t n) { answers += row[n]; });
      right[i] += label<Of>(i) * answers;
      if (a.smoothing != 0) right[i] += floor_of(i) * sum_of_competing(i, row, n0, columns);
      V part{};
      for (int64_t n = 0; n < padded; n += kLanes) part += Of::candidate(load(row + n), now).a;
      if (Of::kCompetes && now != largest[i]) total[i] *= std::exp(largest[i] - now);
      total[i] += sum_lanes(part);
      if (Of::kCompetes) largest[i] = now;
    }
  }

  // Sums of slots, in their order, into those of slot 0; writes the losses.
  template <class Of> void merge_sums() const {
    parallel_for(rows, 64, a.threads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        F &largest = largest_of(0)[i], &total = total_of(0)[i], &right = right_of(0)[i];
        F most = largest;
        for (int64_t slot = 1; slot < slots; ++slot) most = largest_of(slot)[i] > most ? largest_of(slot)[i] : most;
        if (Of::kCompetes && largest != most) total *= std::exp(largest - most);
        for (int64_t slot = 1; slot < slots; ++slot) {
          total += Of::kCompetes ? total_of(slot)[i] * std::exp(largest_of(slot)[i] - most) : total_of(slot)[i];
          right += right_of(slot)[i];
        }
        largest = most;
        const F loss = counts<Of>(i) ? Of::candidate_loss(largest, total, right, competing(i)) : F(0);
        out.losses[first + i] = loss * a.weights[first + i];
      }
    });
  }

  // Scores become coefficients of gradients in place.
  template <class Of> void make_coefficients(int64_t group, int64_t columns, F* block) const {
    const int64_t n0 = group * width, padded = padded_count<F>(columns);
    for (int64_t i = 0; i < rows; ++i) {
      F* row = block + i * width;
      if (!counts<Of>(i)) {
        for (int64_t n = 0; n < padded; ++n) row[n] = 0;
        continue;
      }
      if (!kept) finish_scores(i, row, n0, columns, 0);
      const F weight = Of::kCompetes ? a.weights[first + i] : a.weights[first + i] / competing(i);
      const F largest = largest_of(0)[i], scale = Of::kCompetes ? weight / total_of(0)[i] : weight;
      const F own_label = label<Of>(i) * weight, away = floor_of(i) * weight;
      auto derivative = [&](V s) { return Of::candidate(s, largest).b * scale - away; };
      if constexpr (Sim::kDividesByScore) {
        V labels[kMostWidth / kLanes] = {};
        for_answers(i, n0, columns, [&](int64_t n) { labels[n / kLanes][n % kLanes] += own_label; });
        for (int64_t n = 0; n < padded; n += kLanes) {
          const V s = load(row + n);
          store(row + n, s < 0 ? (derivative(s) - labels[n / kLanes]) / s : V{});
        }
      } else {
        for (int64_t n = 0; n < padded; n += kLanes) store(row + n, derivative(load(row + n)));
        for_answers(i, n0, columns, [&](int64_t n) { row[n] -= own_label; });
      }
      for_left_out(i, n0, columns, [&](int64_t n) { row[n] = 0; });
    }
  }

  // Gradients of a group's candidates, and its part of those of the slot's queries.
  void products(int64_t slot, int64_t group, int64_t columns, const F* block, int worker) const {
    const int64_t n0 = group * width;
    const F* candidates = a.table + n0 * a.dim;
    F *d_query = slots == 1 ? out.d_query + first * a.dim : d_queries + worker * rows_most * a.dim,
      *buffer = worker_at(worker);
    if (slots > 1 && group == slot * groups / slots)
      for (int64_t i = 0; i < rows * a.dim; ++i) d_query[i] = 0;
    if constexpr (kMatrixProduct) {
      F* weights = buffer + Blocks::span_size(width, a.dim);
      Ahead next = ahead(n0 + width, width, (rows + columns) * a.dim / (Blocks::kRows * 2 * kLanes));
      Blocks::pack_span(candidates, 0, columns, columns, a.dim, buffer);
      Blocks::add_products(block, width, 1, rows, buffer, columns, a.dim, weights, d_query, next);
      Blocks::add_products(block, 1, width, columns, spans, rows, a.dim, weights, out.d_table + n0 * a.dim, next);
    } else {
      const RowView<F> x{query(), nullptr, a.dim}, y{candidates, nullptr, a.dim};
      for (int64_t lane = 0; lane < DistanceLane<Sim, F>::lanes(a.dim); ++lane)
        DistanceLane<Sim, F>::add(lane, block, width, x, rows, y, columns, a.dim, buffer, d_query,
                                  out.d_table + n0 * a.dim);
    }
    if (!out.d_bias) return;
    F* d_bias = out.d_bias + n0;
    int64_t n = 0;
    for (; n + kLanes <= columns; n += kLanes) {
      V sum = load(d_bias + n);
      for (int64_t i = 0; i < rows; ++i) sum += load(block + i * width + n);
      store(d_bias + n, sum);
    }
    for (; n < columns; ++n)
      for (int64_t i = 0; i < rows; ++i) d_bias[n] += block[i * width + n];
  }

  // Adds a slot's gradients of queries when those of all before it are there.
  void add_in_turn(int64_t slot, int worker) {
    if (slots == 1) return;
    F *sum = out.d_query + first * a.dim, *part = d_queries + worker * rows_most * a.dim;
    while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != slot) sched_yield();
    for (int64_t k = 0; k < rows * a.dim; ++k) sum[k] += part[k];
    __atomic_store_n(&turn, slot + 1, __ATOMIC_RELEASE);
  }

  void run(int64_t begin, int64_t count) {
    first = begin, rows = count, turn = 0;
    pack();
    count_rivals();
    auto sum = [&](int64_t slot, int64_t group, int64_t columns, F* block, int worker) {
      score(group, columns, block, worker);
      with_candidate_objective(a.objective, [&](auto of) { add_sums<decltype(of)>(slot, group, columns, block); });
    };
    for_slots(sum, [](int64_t, int) {});
    with_candidate_objective(a.objective, [&](auto of) { merge_sums<decltype(of)>(); });
    if (!out.d_query) return;
    auto multiply = [&](int64_t slot, int64_t group, int64_t columns, F* block, int worker) {
      if (!kept) score(group, columns, block, worker);
      with_candidate_objective(a.objective, [&](auto of) { make_coefficients<decltype(of)>(group, columns, block); });
      products(slot, group, columns, block, worker);
    };
    for_slots(multiply, [&](int64_t slot, int worker) { add_in_turn(slot, worker); });
  }

  static constexpr int64_t kMostWidth = 192, kMostSlots = 16;
  static_assert(kMostWidth % Blocks::kRows == 0 && kMostWidth % Blocks::kColumns == 0 && kMostWidth <= Blocks::kSpan);

  // Sizes depend on those of the problem alone, so results don't depend on the number of threads; rooms are counted
  // for 4. alone: for one worker. batch: the queries of the largest part.
  void plan(bool alone, int64_t batch) {
    const bool gradient = out.d_query != nullptr;
    // 8 groups at least where there are few candidates: workers wait less for each other
    width = alone || a.count > 1536 ? 192 : (a.count > 768 ? 128 : (a.count > 512 ? 96 : (a.count > 256 ? 64 : 32)));
    groups = (a.count + width - 1) / width;
    slots = alone ? 1 : (groups < kMostSlots ? groups : kMostSlots);
    // as many queries at a time as leave room for all their scores; with fewer than 96 tables would be walked too often
    const int64_t gradients = gradient && slots > 1 ? 4 * a.dim : 0, fit = a.workspace / (groups * width + gradients);
    kept = gradient && (fit >= 96 || fit >= batch);
    int64_t most = kept ? fit : a.workspace / (gradients + 4 * width);
    const int64_t cached = (int64_t(1) << 18) / a.dim;  // of queries: 1 MB in float32
    most = most < cached ? most : cached;
    most = most < 96 ? 96 : (most > 1024 ? 1024 : most);
    const int64_t chunks = (batch + most - 1) / most;
    rows_most = packed_rows<F>((batch + chunks - 1) / chunks);
    const int64_t pack = Blocks::panel_size(a.dim),
                  multiply = gradient ? Blocks::span_size(width, a.dim) + Blocks::kWeights : 0;
    if constexpr (kMatrixProduct) own = pack > multiply ? pack : multiply;
    else own = pack + (gradient ? DistanceLane<Sim, F>::size(rows_most) : 0);
  }
  // Places the workspaces from `memory` on, if any; returns their size.
  int64_t place(F* memory) {
    const bool gradient = out.d_query != nullptr;
    int64_t size = 0;
    auto take = [&](F*& start, int64_t count) {
      if (memory) start = memory + size;
      size += (count + 63) / 64 * 64;
    };
    take(scores, (kept ? groups : a.threads) * rows_most * width);
    take(queries, Blocks::queries_size(rows_most, a.dim));
    take(spans, kMatrixProduct && gradient ? Blocks::span_size(rows_most, a.dim) : 0);
    take(sums, 3 * slots * rows_most);
    take(d_queries, gradient && slots > 1 ? a.threads * rows_most * a.dim : 0);
    take(workers, own * a.threads);
    if (a.known.starts) take(rivals, rows_most);
    return size;
  }
  void run_all() {
    for (int64_t begin = 0; begin < a.batch; begin += rows_most)
      run(begin, a.batch - begin < rows_most ? a.batch - begin : rows_most);
  }
};

// Parts of the queries, each with all candidates and a gradient of the table of its own, summed in the order of parts.
template <class Chunk, class F>
static void candidate_parts(const CandidateArguments<F>& a, const CandidateResults<F>& out, int64_t parts) {
  const int64_t share = packed_rows<F>((a.batch + parts - 1) / parts), table = out.d_query ? a.count * a.dim : 0;
  const int64_t bias = out.d_bias ? a.count : 0;
  F* gradients = scratch<F>(kGradient, parts * (table + bias));
  auto arguments = [&](int64_t part) {
    CandidateArguments<F> one = a;
    const int64_t begin = part * share, left = a.batch - begin;
    one.query += begin * a.dim, one.answers.starts += begin, one.answers.ends += begin, one.weights += begin;
    if (a.known.starts) one.known.starts += begin, one.known.ends += begin;
    one.batch = left < share ? left : share, one.threads = 1;
    return one;
  };
  const CandidateArguments<F> largest = arguments(0);
  Chunk sizes{largest, out};
  sizes.plan(true, share);
  const int64_t own = sizes.place(nullptr);
  F* memory = scratch<F>(kCandidates, own * a.threads);
  parallel_for(a.batch, share, a.threads, [&](int64_t begin, int64_t, int worker) {
    const int64_t part = begin / share;
    F* d_table = gradients + part * (table + bias);
    for (int64_t k = 0; k < table + bias; ++k) d_table[k] = 0;
    const CandidateArguments<F> some = arguments(part);
    const CandidateResults<F> to{out.losses + begin, table ? out.d_query + begin * a.dim : nullptr, d_table,
                                 bias ? d_table + table : nullptr};
    Chunk chunk = {some, to};
    chunk.plan(true, share);
    chunk.place(memory + own * worker);
    chunk.run_all();
  });
  const int64_t used = (a.batch + share - 1) / share;
  parallel_for(table + bias, 4096, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t part = 0; part < used; ++part) {
      const F* from = gradients + part * (table + bias);
      for (int64_t k = begin; k < end && k < table; ++k) out.d_table[k] += from[k];
      for (int64_t k = begin < table ? table : begin; k < end; ++k) out.d_bias[k - table] += from[k];
    }
  });
}

template <class Blocks, class Sim, class F>
static void candidate_chunks(const CandidateArguments<F>& a, const CandidateResults<F>& out) {
  using Chunk = CandidateChunk<Blocks, Sim, F>;
  const int64_t most = a.workspace / (a.count * (a.dim + 1)), wanted = (a.batch + 63) / 64;
  const int64_t parts = most < 16 ? (most < wanted ? most : wanted) : (wanted < 16 ? wanted : 16);
  if (a.batch >= 2 * a.count && parts >= 4) return candidate_parts<Chunk>(a, out, parts);
  Chunk chunk{a, out};
  chunk.plan(false, a.batch);
  chunk.place(scratch<F>(kCandidates, chunk.place(nullptr)));
  chunk.run_all();
}

template <class Sim, class F>
static void candidate_loss(const CandidateArguments<F>& a, const CandidateResults<F>& out) {
  if (a.batch == 0) return;
#if KGFAST_VECTOR_BYTES == 64
  if constexpr (Sim::kMatrixProduct && std::is_same_v<F, float>)
    if (a.bf16) return candidate_chunks<HalfBlocks, Sim>(a, out);
#endif
  candidate_chunks<Blocks<Sim, F>, Sim>(a, out);
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
