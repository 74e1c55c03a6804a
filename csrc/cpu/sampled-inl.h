// Losses over sampled negatives: scores, objective and the query's gradient in one visit of each row's negatives.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// The objective of row b, whose negatives' scores stand in `scores` (padded); fills `gradient` with weighted
// coefficients. A row of weight 0 has no part, were its loss infinite.
template <class Sim, class F>
KG_HD F finish_row(const SampledArguments<F>& a, int64_t b, F target, F* scores, int64_t padded, int64_t valid,
                   F& d_target, F* gradient) {
  const F weight = a.weights[b];
  if (weight == 0) {
    for (int64_t n = 0; n < a.count; ++n) gradient[n] = 0;
    return d_target = 0;
  }
  for (int64_t n = a.count; n < padded; ++n) scores[n] = -std::numeric_limits<F>::infinity();
  const F loss = with_objective(a.objective.objective, [&](auto objective) {
    return row_objective<decltype(objective)>(a.objective, target, scores, padded, valid, d_target, gradient);
  });
  d_target = coefficient<Sim>(d_target * weight, target);
  if constexpr (Sim::kDividesByScore) {
    for (int64_t n = 0; n < a.count; ++n) gradient[n] = coefficient<Sim>(gradient[n] * weight, scores[n]);
  } else {
#pragma omp simd
    for (int64_t n = 0; n < a.count; ++n) gradient[n] *= weight;
  }
  return loss * weight;
}

template <class F> KG_HD int64_t padded_count(int64_t count) {
  return (count + Lanes<F>::kCount - 1) / Lanes<F>::kCount * Lanes<F>::kCount;
}

// Rows whose only pair in this step is one of query b: their gradient is known already, and they are in the cache
// still.
template <class Sim, class F>
static void update_singles(const SampledArguments<F>& a, const SampledResults<F>& out, int64_t b, F* gradient) {
  const int64_t width = 1 + a.count;
  const F* query = a.query + b * a.dim;
  const StatesOf states = states_of(a.update.rule);
  for (int64_t k = b * width; k < (b + 1) * width; ++k) {
    if (k + 8 < (b + 1) * width && a.single[k + 8]) prefetch_states(a.update, states, a.ids[k + 8], a.dim);
    if (!a.single[k]) continue;
    add_row_gradients<Sim, false>(a.table + a.ids[k] * a.dim, &query, out.coefficients + k, 1, a.dim, gradient);
    apply_row(a.update, a.ids[k], 0, a.dim, gradient);
  }
}

template <class Sim, class F>
static void independent_loss(const SampledArguments<F>& a, const SampledResults<F>& out) {
  const int64_t width = 1 + a.count, padded = padded_count<F>(a.count), own = 2 * padded + width + a.dim;
  const F** pointers = scratch<const F*>(kPointers, width * a.threads);
  F* buffers = scratch<F>(kScores, own * a.threads);
  parallel_for(a.batch, 4, a.threads, [&](int64_t begin, int64_t end, int worker) {
    const F** rows = pointers + width * worker;
    F *scores = buffers + own * worker, *gradient = scores + padded, *raw = gradient + padded, *single = raw + width;
    for (int64_t b = begin; b < end; ++b) {
      const F* query = a.query + b * a.dim;
      const int64_t* ids = a.ids + b * width;
      for (int64_t k = 0; k < width; ++k) rows[k] = a.table + ids[k] * a.dim;
      score_pairs<Sim>(query, rows, width, a.dim, raw);
      int64_t valid = 0;
      for (int64_t n = 0; n < a.count; ++n) {
        const bool masked = is_masked(a.known, b, a.targets[b], a.negatives[b * a.count + n]);
        scores[n] = masked ? -std::numeric_limits<F>::infinity() : raw[1 + n];
        valid += !masked;
      }
      F d_target;
      out.losses[b] = finish_row<Sim>(a, b, raw[0], scores, padded, valid, d_target, gradient);
      if (!out.d_query) continue;
      F* coefficients = out.coefficients + b * width;
      coefficients[0] = d_target;
      for (int64_t n = 0; n < a.count; ++n) coefficients[1 + n] = gradient[n];
      add_row_gradients<Sim, false>(query, rows, coefficients, width, a.dim, out.d_query + b * a.dim);
      if (a.single) update_singles<Sim>(a, out, b, single);
    }
  });
}

// Rows b of group g share the negatives of list g; groups are the balanced parts [g B / G, (g + 1) B / G).
template <class Sim, class F>
static void shared_loss(const SampledArguments<F>& a, const SampledResults<F>& out) {
  const int64_t padded = padded_count<F>(a.count);
  const int64_t largest = (a.batch + a.groups - 1) / a.groups;
  F* packed = scratch<F>(kPacked, packed_rows<F>(largest) * a.dim);
  F* scores = scratch<F>(kScores, largest * padded);
  F* gradients = scratch<F>(kGradient, largest * padded);
  const F** targets = scratch<const F*>(kTargets, a.threads);
  for (int64_t group = 0; group < a.groups; ++group) {
    const int64_t first = (group * a.batch + a.groups - 1) / a.groups;
    const int64_t rows = ((group + 1) * a.batch + a.groups - 1) / a.groups - first;
    const int64_t* list = a.negatives + group * a.count;
    const RowView<F> query{a.query + first * a.dim, nullptr, a.dim}, candidate{a.table, list, a.dim};
    pack_rows<F>(query, rows, a.dim, a.threads, packed);
    score_matrix<Sim>(packed, rows, candidate, a.count, a.dim, a.threads, scores, padded);
    parallel_for(rows, 16, a.threads, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = first + i;
        F *row = scores + i * padded, *gradient = gradients + i * padded, target;
        int64_t valid = 0;
        for (int64_t n = 0; n < a.count; ++n) {
          const bool masked = is_masked(a.known, b, a.targets[b], list[n]);
          row[n] = masked ? -std::numeric_limits<F>::infinity() : row[n];
          valid += !masked;
        }
        targets[worker] = a.table + a.targets[b] * a.dim;
        score_pairs<Sim>(query(i), targets + worker, 1, a.dim, &target);
        F d_target;
        out.losses[b] = finish_row<Sim>(a, b, target, row, padded, valid, d_target, gradient);
        if (!out.d_query) continue;
        out.coefficients[b] = d_target;
        add_row_gradients<Sim, false>(query(i), targets + worker, &d_target, 1, a.dim, out.d_query + b * a.dim);
      }
    });
    if (!out.d_query) continue;
    F* d_list = out.d_negatives + group * a.count * a.dim;
    for (int64_t i = 0; i < a.count * a.dim; ++i) d_list[i] = 0;
    add_gradients<Sim>(gradients, padded, query, rows, candidate, a.count, a.dim, a.threads,
                       out.d_query + first * a.dim, d_list);
  }
}

template <class Sim, class F>
static void sampled_loss(const SampledArguments<F>& a, const SampledResults<F>& out) {
  if (a.groups == a.batch) independent_loss<Sim>(a, out);
  else shared_loss<Sim>(a, out);
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
