// The pass over touched rows: each unique row collects its gradient from (query, coefficient) pairs and extra rows,
// in the order of the sorted ids, and is updated by it: a dense or sparse gradient, or an optimizer in place.
// A row is finished by one worker, so neither the number of threads nor their timing can change a bit.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// Four sums side by side: one alone would wait for itself.
template <class F> KG_HD F sum_of_squares(const F* g, int64_t dim) {
  constexpr int kLanes = Lanes<F>::kCount;
  typename Lanes<F>::V sum[4] = {};
  int64_t d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] += load(g + d + k * kLanes) * load(g + d + k * kLanes);
  for (; d + kLanes <= dim; d += kLanes) sum[0] += load(g + d) * load(g + d);
  if (d < dim) sum[1] += load_part(g + d, dim - d) * load_part(g + d, dim - d);
  return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <class Rule, class F>
static inline void update_row(const RowUpdate<F>& update, int64_t row, F* x, const F* g, int64_t dim) {
  const UpdateConstants<F> constants = update.constants;
  constexpr int kStates = Rule::kStates;
  F rate = 0;
  if constexpr (Rule::kRowState) rate = Rule::rate(constants, sum_of_squares(g, dim) / F(dim), update.state1[row]);
  F* first = kStates > 0 ? update.state1 + row * dim : nullptr;
  F* second = kStates > 1 ? update.state2 + row * dim : nullptr;
#pragma omp simd
  for (int64_t d = 0; d < dim; ++d) {
    F number = x[d], one = kStates > 0 ? first[d] : F(0), two = kStates > 1 ? second[d] : F(0);
    Rule::step(constants, rate, g[d], number, one, two);
    x[d] = number;
    if constexpr (kStates > 0) first[d] = one;
    if constexpr (kStates > 1) second[d] = two;
  }
}

// One row under its gradient; `row` is the table's row id, `place` its index among the unique rows.
template <class F>
static inline void apply_row(const RowUpdate<F>& update, int64_t row, int64_t place, int64_t dim, const F* g) {
  with_rule(update.rule, [&](auto rule) {
    using Rule = decltype(rule);
    update_row<Rule>(update, row, update.rows + (Rule::kCompact ? place : row) * dim, g, dim);
  });
}

// What a rule keeps of a row, and where.
struct StatesOf {
  int numbers;  // beside each number of a row
  bool row, compact;
};
KG_HD StatesOf states_of(Update rule) {
  StatesOf states{};
  with_rule(rule, [&](auto rule) {
    using Rule = decltype(rule);
    states = {Rule::kStates, Rule::kRowState, Rule::kCompact};
  });
  return states;
}

// Asks for what apply_row() reads besides the row. GCC drops calls of functions that only prefetch: they seem to do
// nothing.
template <class F>
__attribute__((always_inline)) static inline void prefetch_states(const RowUpdate<F>& update, StatesOf states,
                                                                  int64_t row, int64_t dim) {
  if (states.row) __builtin_prefetch(update.state1 + row, 1);
  if (states.numbers == 0) return;
  for (int64_t d = 0; d < dim; d += int64_t(64 / sizeof(F))) {
    __builtin_prefetch(update.state1 + row * dim + d, 1);
    if (states.numbers > 1) __builtin_prefetch(update.state2 + row * dim + d, 1);
  }
}

template <class Sim, class F>
static void reduce_rows(const RowSources<F>& a, const RowOrder& order, const RowUpdate<F>& update) {
  constexpr int64_t kBatch = 256;
  const StatesOf states = states_of(update.rule);
  const uint64_t* entries = order.entries;
  const int64_t pairs = a.queries * a.width;
  const F** pointers = scratch<const F*>(kPointers, kBatch * a.threads);
  F* buffers = scratch<F>(kGradient, (a.dim + 64 + kBatch) * a.threads);
  parallel_for(order.unique, 64, a.threads, [&](int64_t begin, int64_t end, int worker) {
    const F** rows = pointers + kBatch * worker;
    F *gradient = buffers + (a.dim + 64 + kBatch) * worker, *coefficients = gradient + a.dim + 64;
    for (int64_t u = begin; u < end; ++u) {
      const int64_t start = order.starts[u], stop = order.starts[u + 1];
      if (a.single && int64_t(uint32_t(entries[start])) < pairs && a.single[uint32_t(entries[start])]) continue;
      const int64_t id = int64_t(entries[start] >> 32);
      if (u + 1 < end) {
        const char* next = reinterpret_cast<const char*>(update.rows + int64_t(entries[stop] >> 32) * a.dim);
        if (!states.compact)
          for (int64_t line = 0; line < 8; ++line) __builtin_prefetch(next + 64 * line, 1);
        prefetch_states(update, states, int64_t(entries[stop] >> 32), a.dim);
      }
      for (int64_t d = 0; d < a.dim; ++d) gradient[d] = 0;
      int64_t i = start;
      while (i < stop && int64_t(uint32_t(entries[i])) < pairs) {
        int64_t count = 0;
        for (; i < stop && count < kBatch && int64_t(uint32_t(entries[i])) < pairs; ++i, ++count) {
          const int64_t position = uint32_t(entries[i]);
          rows[count] = a.query + uint32_t(position) / uint32_t(a.width) * a.dim;
          coefficients[count] = a.pair_coefficients[position];
        }
        add_row_gradients<Sim>(a.table + id * a.dim, rows, coefficients, count, a.dim, gradient);
      }
      for (; i < stop; ++i) {
        int64_t position = int64_t(uint32_t(entries[i])) - pairs, source = 0;
        while (position >= a.extra_count[source]) position -= a.extra_count[source++];
        const F* extra = a.extra_rows[source] + position * a.dim;
#pragma omp simd
        for (int64_t d = 0; d < a.dim; ++d) gradient[d] += extra[d];
      }
      apply_row(update, id, u, a.dim, gradient);
    }
  });
}

template <class F>
static void update_all_rows(int64_t rows, int64_t dim, const F* gradients, const RowUpdate<F>& update, int threads) {
  parallel_for(rows, 64, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) apply_row(update, row, row, dim, gradients + row * dim);
  });
}

// gradients[i] += d/dx of weight * sum |x|^3 (moduli where a row is complex) or weight * sum x^2, for x = table[ids[i]]
template <class F>
static void regularizer(Regularizer kind, int parts, F weight, const F* table, const int64_t* ids, int64_t count,
                        int64_t dim, int threads, F* gradients) {
  parallel_for(count, 64, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const F* x = table + ids[i] * dim;
      F* g = gradients + i * dim;
      const int64_t half = dim / 2;
      if (parts == 2 && kind != Regularizer::kL2) {
#pragma omp simd
        for (int64_t d = 0; d < half; ++d) {
          const F modulus = root(x[d] * x[d] + x[d + half] * x[d + half]);
          g[d] += regularizer_gradient(kind, weight, x[d], modulus),
              g[d + half] += regularizer_gradient(kind, weight, x[d + half], modulus);
        }
      } else {
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) g[d] += regularizer_gradient(kind, weight, x[d], absolute(x[d]));
      }
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
