// Scores of chosen rows and their gradient by the query, outside a loss. Bytes: each pair's row once. A team holds a
// query in registers and has kFlight rows in flight; the gradient is summed by one block a query.
#include <type_traits>

#include "kgfast/device.h"
#include "slices.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

// grid: (query, part of its rows). Gradient: one part only.
template <class Sim, int L, int V, bool kGradient> struct Pairs {
  using Rows = Layout<Sim, L, V>;
  static constexpr int kThreads = L == 32 ? 128 : L, kTeams = kThreads / L, kFlight = V <= 4 ? 4 : 2;
  static constexpr int64_t kExchange = 8 * 8 * sizeof(float);
  static constexpr int64_t kShared = kExchange + (kGradient ? kTeams * Rows::kCapacity * int64_t(sizeof(float)) : 0);
  PairRows a;
  bool aligned;
  int64_t share;  // rows of a block
  const float *in_scores, *g;
  float *scores, *coefficients, *d_query;

  KG_DEVICE void operator()() const {
    const int64_t b = block_x(), first = int64_t(block_y()) * share;
    const int64_t last = first + share < a.width ? first + share : a.width;
    const int rank = Team<L>::rank(), dim = int(a.dim);
    float x[Rows::kNumbers], sum[Rows::kNumbers] = {};
    Rows::load(a.query + b * a.dim, dim, aligned, rank, x);
    for (int64_t k0 = first + Team<L>::index() * kFlight; k0 < last; k0 += kTeams * kFlight) {
      float rows[kFlight][Rows::kNumbers];
#pragma unroll
      for (int r = 0; r < kFlight; ++r)
        Rows::load(a.table + a.ids[b * a.width + (k0 + r < last ? k0 + r : k0)] * a.dim, dim, aligned, rank, rows[r]);
      if constexpr (kGradient) {
#pragma unroll
        for (int r = 0; r < kFlight; ++r) {
          if (k0 + r >= last) continue;
          const int64_t i = b * a.width + k0 + r;
          const float c = coefficient<Sim>(g[i], in_scores[i]);
          if (rank == 0) coefficients[i] = c;
          Rows::add_gradient(sum, c, x, rows[r]);
        }
      } else {
        float s[kFlight];
#pragma unroll
        for (int r = 0; r < kFlight; ++r) s[r] = Rows::partial(x, rows[r]);
        Team<L>::sum(s, shared<float>());
#pragma unroll
        for (int r = 0; r < kFlight; ++r)
          if (rank == 0 && k0 + r < last) scores[b * a.width + k0 + r] = Sim::score(s[r]);
      }
    }
    if constexpr (kGradient) {
      float* merged = shared<float>(kExchange);
      if constexpr (kTeams > 1) {
#pragma unroll
        for (int i = 0; i < Rows::kNumbers; ++i) merged[(Team<L>::index() * Rows::kNumbers + i) * L + rank] = sum[i];
        sync();
        if (Team<L>::index() > 0) return;
#pragma unroll
        for (int i = 0; i < Rows::kNumbers; ++i)
          for (int team = 1; team < kTeams; ++team) sum[i] += merged[(team * Rows::kNumbers + i) * L + rank];
      }
      Rows::store(d_query + b * a.dim, dim, aligned, rank, sum);
    }
  }
};

void pair_scores(const PairRows& a, float* scores, void* stream) {
  if (a.batch == 0 || a.width == 0) return;
  with_similarity(a.similarity, [&](auto sim) {
    with_layout(a.dim, [&](auto threads, auto chunks) {
      using Body = Pairs<decltype(sim), decltype(threads)::value, decltype(chunks)::value, false>;
      // few queries with many rows are shared out, so that the device is full
      const int64_t parts = a.batch >= 1024 ? 1 : (1024 + a.batch - 1) / a.batch, least = Body::kTeams * Body::kFlight;
      const int64_t share = (a.width + parts - 1) / parts < least ? least : (a.width + parts - 1) / parts;
      Body body{a,      is_aligned<decltype(sim)>(a.dim, {a.query, a.table}), share, nullptr, nullptr, scores, nullptr,
                nullptr};
      launch(body, Grid{a.batch, (a.width + share - 1) / share}, Body::kShared, stream);
    });
  });
}

void pair_query_gradient(const PairRows& a, const float* scores, const float* g, float* coefficients, float* d_query,
                         void* stream) {
  with_similarity(a.similarity, [&](auto sim) {
    with_layout(a.dim, [&](auto threads, auto chunks) {
      using Body = Pairs<decltype(sim), decltype(threads)::value, decltype(chunks)::value, true>;
      Body body{a,
                is_aligned<decltype(sim)>(a.dim, {a.query, a.table, d_query}),
                a.width,
                scores,
                g,
                nullptr,
                coefficients,
                d_query};
      launch(body, Grid{a.batch}, Body::kShared, stream);
    });
  });
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
