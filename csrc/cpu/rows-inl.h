// The pass over touched rows: each unique row collects its gradient from (query, coefficient) pairs and ready rows,
// in the order of the sorted ids, and goes straight to its sink: a dense or sparse gradient, or an optimizer in place.
// A row is finished by one worker, so neither the number of threads nor their timing can change a bit.
#pragma once

namespace kgfast {
namespace KGFAST_LEVEL {

// One row through its sink; `row` is the table's row id, `place` its index among the unique rows.
template <class F>
static inline void apply_row(const Sink<F>& s, int64_t row, int64_t place, int64_t dim, const F* g) {
  if (s.update == Update::kDense || s.update == Update::kSparse) {
    F* out = s.rows + (s.update == Update::kDense ? row : place) * dim;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) out[d] += g[d];
    return;
  }
  F* x = s.rows + row * dim;
  if (s.update == Update::kSgd) {
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) x[d] -= s.lr * g[d];
  } else if (s.update == Update::kAdagrad) {
    F* sum = s.state1 + row * dim;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      sum[d] += g[d] * g[d];
      x[d] -= s.lr * g[d] / (std::sqrt(sum[d]) + s.eps);
    }
  } else if (s.update == Update::kRowAdagrad) {
    F squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < dim; ++d) squares += g[d] * g[d];
    s.state1[row] += squares / F(dim);
    const F rate = s.lr / (std::sqrt(s.state1[row]) + s.eps);
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) x[d] -= rate * g[d];
  } else {  // lazy Adam: moments of touched rows only, bias corrected by the global step
    F *m = s.state1 + row * dim, *v = s.state2 + row * dim;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      m[d] = s.beta1 * m[d] + (1 - s.beta1) * g[d];
      v[d] = s.beta2 * v[d] + (1 - s.beta2) * g[d] * g[d];
      x[d] -= s.adam_rate * m[d] / (std::sqrt(v[d]) + s.eps);
    }
  }
}

template <class Sim, class F>
static void reduce_rows(const RowSources<F>& a, const RowOrder& order, const Sink<F>& sink) {
  constexpr int64_t kBatch = 256;
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
        const char* next = reinterpret_cast<const char*>(sink.rows + int64_t(entries[stop] >> 32) * a.dim);
        if (sink.update != Update::kSparse)
          for (int64_t line = 0; line < 8; ++line) __builtin_prefetch(next + 64 * line, 1);
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
        add_slopes<Sim>(a.table + id * a.dim, rows, coefficients, count, a.dim, gradient);
      }
      for (; i < stop; ++i) {
        int64_t position = int64_t(uint32_t(entries[i])) - pairs, source = 0;
        while (position >= a.extra_count[source]) position -= a.extra_count[source++];
        const F* extra = a.extra_rows[source] + position * a.dim;
#pragma omp simd
        for (int64_t d = 0; d < a.dim; ++d) gradient[d] += extra[d];
      }
      apply_row(sink, id, u, a.dim, gradient);
    }
  });
}

template <class F>
static void update_all_rows(int64_t rows, int64_t dim, const F* gradients, const Sink<F>& sink, int threads) {
  parallel_for(rows, 64, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) apply_row(sink, row, row, dim, gradients + row * dim);
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
      if (kind == Regularizer::kL2) {
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) g[d] += 2 * weight * x[d];
      } else if (parts == 2) {
        const int64_t half = dim / 2;
#pragma omp simd
        for (int64_t d = 0; d < half; ++d) {
          const F scale = 3 * weight * std::sqrt(x[d] * x[d] + x[d + half] * x[d + half]);
          g[d] += scale * x[d], g[d + half] += scale * x[d + half];
        }
      } else {
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) g[d] += 3 * weight * std::fabs(x[d]) * x[d];
      }
    }
  });
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
