// Plain-pointer entry points of the CPU kernels: argument structs, and one table of functions per instruction set.
// Tables are row blocks: rows [count, dim], ids into them, gradients or updates of the touched rows out of them.
#pragma once

#include <cstdint>

#include "core.h"
#include "objectives.h"
#include "regularizers.h"
#include "scores.h"
#include "updates.h"

namespace kgfast {

template <class F> struct QueryArguments {
  Side side;
  const F *entities, *relations;
  const int64_t* triples;  // [batch, 3]
  int64_t batch, dim, relation_width;
  int threads;
};

// Ids of a step in ascending order: entries are (id << 32 | position), row u's are [starts[u], starts[u + 1]).
// Positions count the pairs first, then the extra rows.
struct RowOrder {
  const uint64_t* entries;
  const int64_t* starts;
  int64_t unique;
};

template <class F> struct SampledArguments {
  Similarity similarity;
  ObjectiveOptions<F> objective;
  const F *query, *table;
  const int64_t *targets, *negatives;  // [batch], [groups, count]
  IdRanges known;
  const F* weights;  // [batch], already divided by their sum
  int64_t batch, groups, count, dim;
  int threads;
  const int64_t* ids;  // independent negatives: [batch, 1 + count] of pair_ids()
  // [batch, 1 + count] whether the pair is all that a step has of its row, which is updated at once, while it is in the
  // cache; or null
  const uint8_t* single;
  RowUpdate<F> update;
};
template <class F> struct SampledResults {
  F* losses;  // [batch], weighted
  F* d_query;  // [batch, dim], null where no gradient is wanted
  F* coefficients;  // independent: [batch, 1 + count]; shared: [batch], the target's
  F* d_negatives;  // shared: [groups, count, dim]
};

template <class F> struct CandidateArguments {
  Similarity similarity;
  Objective objective;
  F smoothing;
  const F *query, *table, *bias;  // bias [count] or null
  IdRanges answers;
  IdRanges known;  // candidates that do not compete unless they are answers
  const F* weights;  // [batch], already divided by their sum
  int64_t batch, count, dim, workspace;  // workspace: the most scores kept at a time
  int threads;
  bool bf16;  // dot products of bfloat16 operands, summed in float32; only where bf16_supported()
};
template <class F> struct CandidateResults {
  F *losses, *d_query, *d_table, *d_bias;  // gradients are added to; all null where not wanted, d_bias without a bias
};

template <class F> struct ScanArguments {
  Similarity similarity;
  const F *query, *table;
  IdRanges known;
  int64_t batch, count, dim;
  int threads;
};

// Gradients of rows from pairs (query, id, coefficient) and from extra rows (ids, gradients).
template <class F> struct RowSources {
  Similarity similarity;
  const F *query, *table;
  const F* pair_coefficients;  // [queries, width]
  int64_t queries, width, dim;
  const F* extra_rows[kMostExtras];  // [extra_count, dim]
  int64_t extra_count[kMostExtras];
  int threads;
  const uint8_t* single;  // by position: rows that were updated before; or null
};

template <class F> struct Kernels {
  void (*queries)(int score, const QueryArguments<F>&, F* out);
  void (*queries_adjoint)(int score, const QueryArguments<F>&, const F* d_query, F* d_anchor, F* d_relation);
  void (*pair_scores)(Similarity, const F* query, const F* table, const int64_t* ids, int64_t batch, int64_t width,
                      int64_t dim, int threads, F* scores);
  void (*pair_query_gradient)(Similarity, const F* query, const F* table, const int64_t* ids, const F* scores,
                              const F* g, int64_t batch, int64_t width, int64_t dim, int threads, F* coefficients,
                              F* d_query);
  void (*all_scores)(Similarity, const F* query, const F* table, int64_t batch, int64_t count, int64_t dim, int threads,
                     F* scores);
  void (*all_scores_gradient)(Similarity, const F* query, const F* table, const F* scores, const F* g, int64_t batch,
                              int64_t count, int64_t dim, int threads, F* d_query, F* d_table);
  void (*sampled_loss)(const SampledArguments<F>&, const SampledResults<F>&);
  void (*candidate_loss)(const CandidateArguments<F>&, const CandidateResults<F>&);
  void (*rank)(const ScanArguments<F>&, const int64_t* targets, int64_t* greater, int64_t* equal, F* target_scores);
  void (*topk)(const ScanArguments<F>&, int64_t k, F* scores, int64_t* ids);
  void (*reduce_rows)(const RowSources<F>&, const RowOrder&, const RowUpdate<F>&);
  void (*update_all_rows)(int64_t rows, int64_t dim, const F* gradients, const RowUpdate<F>&, int threads);
  void (*regularizer)(Regularizer, int parts, F weight, const F* table, const int64_t* ids, int64_t count, int64_t dim,
                      int threads, F* gradients);
};

struct Level {
  const char* name;
  bool (*supported)();
  const Kernels<float>* float32;
};

extern const Level kBaselineLevel, kAvx2Level, kAvx512Level;
extern const Kernels<double>* const kDoubleKernels;  // float64 is for checking: one level is enough

// The level in use: the best one that the machine has, or the one named by KGFAST_CPU or set_level().
const Level& level();
void set_level(const char* name);  // throws std::invalid_argument
bool bf16_supported();  // by the machine and the level in use
int level_count();
const Level& level_at(int index);

template <class F> const Kernels<F>& kernels();
template <> inline const Kernels<float>& kernels<float>() { return *level().float32; }
template <> inline const Kernels<double>& kernels<double>() { return *kDoubleKernels; }

// Ids for (seed, step, list, column); lists = batch for independent negatives. With `known`, draws are redrawn exactly.
struct SampleArguments {
  uint64_t seed, step;
  Side side;
  int64_t lists, count, entities;
  const int64_t* weights;  // as Draws has them (sampling.h), or null
  IdRanges known;
  int threads;
};
void sample(const SampleArguments&, int64_t* ids);

// ids [batch, 1 + count]: the target, then the negatives, the target again in place of a masked one (-1).
void pair_ids(const int64_t* targets, const int64_t* negatives, int64_t batch, int64_t count, int threads,
              int64_t* ids);

// Stable order of all source ids, of which the first holds the pairs. Writes entries [total], starts [total + 1] and,
// if not null, single [pairs]: whether the pair is the only source of its row. Returns the number of unique ids.
int64_t sort_rows(const int64_t* const* ids, const int64_t* counts, int sources, int64_t bound, int threads,
                  uint64_t* entries, int64_t* starts, uint8_t* single);

// Grow-only workspaces of the calling thread, one per purpose, 64-byte aligned; released by release_scratch().
enum Slot {
  kPointers,
  kPanel,
  kEdge,
  kWeights,
  kPacked,
  kScores,
  kCandidates,
  kGradient,
  kTargets,
  kSort,
  kHistogram,
  kSlots
};
// Moves memory that is in use already onto huge pages where the system can: random rows then cost no walk of page
// tables. Returns whether it did; contents don't change.
bool use_huge_pages(void* memory, int64_t bytes);

void* scratch_bytes(Slot slot, int64_t bytes);
void release_scratch();
int64_t scratch_total();
template <class T> T* scratch(Slot slot, int64_t count) {
  return static_cast<T*>(scratch_bytes(slot, count * int64_t(sizeof(T))));
}

}  // namespace kgfast
