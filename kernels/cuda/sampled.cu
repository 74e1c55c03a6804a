// Loss over a triple's own negatives. Each negative's row is read once: a team scores it from registers and adds its
// gradient to the query's gradient at once, relative to the largest score so far, so nothing waits for the softmax
// over negatives. Bytes: (1 + N) rows a query; 3 to 5 operations a number. A block a query, teams in turns over its
// negatives.
#include <type_traits>

#include "kgfast/device.h"
#include "masks.cuh"
#include "slices.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

template <class Sim, int L, int V> struct IndependentLoss {
  using Rows = Layout<Sim, L, V>;
  static constexpr int kThreads = L == 32 ? 128 : L, kTeams = kThreads / L, kFlight = V <= 4 ? 4 : 2;
  static constexpr int kExchange = 64, kTerms = 4 * kTeams;  // floats of shared memory
  static constexpr int64_t kShared =
      (kExchange + kTerms + (kTeams > 1 ? kTeams * Rows::kCapacity : 0)) * int64_t(sizeof(float));
  SampledRows a;
  bool aligned;

  KG_DEVICE void operator()() const {  // long: one visit of each row, all of whose sums are in registers
    const int64_t b = block_x(), width = 1 + a.count;
    const int rank = Team<L>::rank(), team = Team<L>::index(), dim = int(a.dim);
    const int64_t target_id = a.targets[b], *negatives = a.negatives + b * a.count;
    int64_t* ids = a.ids + b * width;
    float* scores = a.coefficients + b * width;  // scores now, coefficients in the end
    float *exchange = shared<float>(), *terms = exchange + kExchange, *merged = terms + kTerms;

    mark_masked<kThreads>(a, b, negatives, scores + 1, ids + 1);
    float query[Rows::kNumbers], gradient[Rows::kNumbers] = {}, own[1] = {target_part(a, dim, rank, query)};
    Team<L>::sum(own, exchange);
    const float target = Sim::score(own[0]);

    NegativeSums<float> sums = first_sums(a, target);
    for (int64_t n0 = team * kFlight; n0 < a.count; n0 += kTeams * kFlight) {
      float rows[kFlight][Rows::kNumbers], s[kFlight];
      bool counted[kFlight];
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        counted[r] = n0 + r < a.count && scores[1 + n0 + r] == 0;
        Rows::load(a.table + (counted[r] ? negatives[n0 + r] : target_id) * a.dim, dim, aligned, rank, rows[r]);
      }
#pragma unroll
      for (int r = 0; r < kFlight; ++r) s[r] = Rows::partial(query, rows[r]);
      Team<L>::sum(s, exchange);  // of the team's threads alone, so all of them have read their marks
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        if (!counted[r]) continue;
        const float score = Sim::score(s[r]);
        if (rank == 0) scores[1 + n0 + r] = score;
        const auto [scale, derivative] = add_to(sums, a, target, score);
        if (scale != 1) {
#pragma unroll
          for (int i = 0; i < Rows::kNumbers; ++i) gradient[i] *= scale;
        }
        if (a.d_query) Rows::add_gradient(gradient, coefficient<Sim>(derivative, score), query, rows[r]);
      }
    }

    const float before = sums.largest;
    if constexpr (kTeams > 1) sums = merge_teams(exponent_of(a), sums, terms, team, rank);
    const RowLoss<float> row = loss_of(a, b, target, sums);
    const float weight = a.weights[b], share = row.factor / row.divisor * weight;
    const float d_target = coefficient<Sim>(row.d_target * weight, target);
    if (thread() == 0) a.losses[b] = row.loss * weight, ids[0] = target_id, scores[0] = d_target;
    if (!a.d_query) return;

    const float scale = share * rescaling(exponent_of(a), before, sums.largest);
#pragma unroll
    for (int i = 0; i < Rows::kNumbers; ++i) gradient[i] = share == 0 ? 0.f : gradient[i] * scale;
    if (team == 0) {
      float target_row[Rows::kNumbers];
      Rows::load(a.table + target_id * a.dim, dim, aligned, rank, target_row);
      Rows::add_gradient(gradient, d_target, query, target_row);
    }
    if constexpr (kTeams > 1) {
#pragma unroll
      for (int i = 0; i < Rows::kNumbers; ++i) merged[(team * Rows::kNumbers + i) * L + rank] = gradient[i];
    }
    sync();  // scores and gradients of all teams are there
    finish_coefficients<Sim, kThreads>(a, share, sums.largest, target, scores + 1);
    if (team > 0) return;
    if constexpr (kTeams > 1) {
#pragma unroll
      for (int i = 0; i < Rows::kNumbers; ++i)
        for (int other = 1; other < kTeams; ++other) gradient[i] += merged[(other * Rows::kNumbers + i) * L + rank];
    }
    Rows::store(a.d_query + b * a.dim, dim, aligned, rank, gradient);
  }

  // Loads the query; returns this thread's part of its target's score.
  KG_DEVICE float target_part(const SampledRows& a, int dim, int rank, float (&query)[Rows::kNumbers]) const {
    float target_row[Rows::kNumbers];
    Rows::load(a.query + block_x() * a.dim, dim, aligned, rank, query);
    Rows::load(a.table + a.targets[block_x()] * a.dim, dim, aligned, rank, target_row);
    return Rows::partial(query, target_row);
  }
  static KG_DEVICE NegativeSums<float> merge_teams(float exponent, const NegativeSums<float>& own, float* terms,
                                                   int team, int rank) {
    if (rank == 0)
      terms[4 * team] = own.largest, terms[4 * team + 1] = own.weight, terms[4 * team + 2] = own.value,
                terms[4 * team + 3] = own.gradient;
    sync();
    NegativeSums<float> sums{terms[0], terms[1], terms[2], terms[3]};
    for (int t = 1; t < kTeams; ++t)
      sums = merge(exponent, sums,
                   NegativeSums<float>{terms[4 * t], terms[4 * t + 1], terms[4 * t + 2], terms[4 * t + 3]});
    return sums;
  }
};

void independent_loss(const SampledRows& a, void* stream) {
  with_similarity(a.similarity, [&](auto sim) {
    with_layout(a.dim, [&](auto threads, auto chunks) {
      using Body = IndependentLoss<decltype(sim), decltype(threads)::value, decltype(chunks)::value>;
      Body body{a, is_aligned<decltype(sim)>(a.dim, {a.query, a.table, a.d_query})};
      launch(body, Grid{a.batch}, Body::kShared, stream);
    });
  });
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
