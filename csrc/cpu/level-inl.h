// All CPU kernels for one instruction set. A level's source file sets KGFAST_LEVEL, KGFAST_VECTOR_BYTES and
// KGFAST_TILE_ROWS, switches the compiler's target on, and includes this. Nothing here may define a symbol that another
// level's code could share: no standard containers, everything static or inside the level's namespace.
#include "simd.h"
// scores.h and objectives.h need simd.h's names before them
#include "kgfast/api.h"
#include "kgfast/sampling.h"
#include "parallel.h"

#include "queries-inl.h"
#include "pairs-inl.h"
#include "objectives-inl.h"
#include "tiles-inl.h"
#include "gradients-inl.h"
#include "bf16-inl.h"
#include "rows-inl.h"
#include "sampled-inl.h"
#include "candidates-inl.h"
#include "ranking-inl.h"

namespace kgfast {
namespace KGFAST_LEVEL {

template <class F> struct Table {
  static void queries(int score, const QueryArguments<F>& a, F* out) {
    with_operator(score, [&](auto op) { KGFAST_LEVEL::queries<decltype(op)>(a, out); });
  }
  static void queries_adjoint(int score, const QueryArguments<F>& a, const F* d_query, F* d_anchor, F* d_relation) {
    with_operator(score,
                  [&](auto op) { KGFAST_LEVEL::queries_adjoint<decltype(op)>(a, d_query, d_anchor, d_relation); });
  }
  static void pair_scores(Similarity similarity, const F* query, const F* table, const int64_t* ids, int64_t batch,
                          int64_t width, int64_t dim, int threads, F* scores) {
    with_similarity(similarity, [&](auto sim) {
      KGFAST_LEVEL::pair_scores<decltype(sim)>(query, table, ids, batch, width, dim, threads, scores);
    });
  }
  static void pair_query_gradient(Similarity similarity, const F* query, const F* table, const int64_t* ids,
                                  const F* scores, const F* g, int64_t batch, int64_t width, int64_t dim, int threads,
                                  F* coefficients, F* d_query) {
    with_similarity(similarity, [&](auto sim) {
      KGFAST_LEVEL::pair_query_gradient<decltype(sim)>(query, table, ids, scores, g, batch, width, dim, threads,
                                                       coefficients, d_query);
    });
  }
  static void all_scores(Similarity similarity, const F* query, const F* table, int64_t batch, int64_t count,
                         int64_t dim, int threads, F* scores) {
    with_similarity(similarity, [&](auto sim) {
      F* packed = scratch<F>(kPacked, packed_rows<F>(batch) * dim);
      pack_rows<F>({query, nullptr, dim}, batch, dim, threads, packed);
      score_matrix<decltype(sim)>(packed, batch, RowView<F>{table, nullptr, dim}, count, dim, threads, scores, count);
    });
  }
  static void all_scores_gradient(Similarity similarity, const F* query, const F* table, const F* scores, const F* g,
                                  int64_t batch, int64_t count, int64_t dim, int threads, F* d_query, F* d_table) {
    with_similarity(similarity, [&](auto sim) {
      using Sim = decltype(sim);
      const F* weights = g;
      if constexpr (Sim::kDividesByScore) {
        F* divided = scratch<F>(kCandidates, batch * count);
        for (int64_t i = 0; i < batch * count; ++i) divided[i] = coefficient<Sim>(g[i], scores[i]);
        weights = divided;
      }
      const RowView<F> x{query, nullptr, dim}, y{table, nullptr, dim};
      add_gradients<Sim>(weights, count, x, batch, y, count, dim, threads, d_query, d_table);
    });
  }
  static void sampled_loss(const SampledArguments<F>& a, const SampledResults<F>& out) {
    with_similarity(a.similarity, [&](auto sim) { KGFAST_LEVEL::sampled_loss<decltype(sim)>(a, out); });
  }
  static void candidate_loss(const CandidateArguments<F>& a, const CandidateResults<F>& out) {
    with_similarity(a.similarity, [&](auto sim) { KGFAST_LEVEL::candidate_loss<decltype(sim)>(a, out); });
  }
  static void rank(const ScanArguments<F>& a, const int64_t* targets, int64_t* greater, int64_t* equal,
                   F* target_scores) {
    with_similarity(a.similarity,
                    [&](auto sim) { KGFAST_LEVEL::rank<decltype(sim)>(a, targets, greater, equal, target_scores); });
  }
  static void topk(const ScanArguments<F>& a, int64_t k, F* scores, int64_t* ids) {
    with_similarity(a.similarity, [&](auto sim) { KGFAST_LEVEL::topk<decltype(sim)>(a, k, scores, ids); });
  }
  static void reduce_rows(const RowSources<F>& a, const RowOrder& order, const RowUpdate<F>& update) {
    with_similarity(a.similarity, [&](auto sim) { KGFAST_LEVEL::reduce_rows<decltype(sim)>(a, order, update); });
  }
  static constexpr Kernels<F> kernels = {queries,       queries_adjoint,
                                         pair_scores,   pair_query_gradient,
                                         all_scores,    all_scores_gradient,
                                         sampled_loss,  candidate_loss,
                                         rank,          topk,
                                         reduce_rows,   update_all_rows<F>,
                                         regularizer<F>};
};

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
