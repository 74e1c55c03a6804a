// Plain-pointer entry points of the CUDA kernels (kernels/cuda), float32, on the caller's stream. They exist twice: in
// namespace device, compiled by nvcc where there is one, and in namespace host, where the same kernels are run thread
// by thread on the CPU (kernels/cuda/emulate.h; tests).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core.h"
#include "objectives.h"
#include "regularizers.h"
#include "sampling.h"
#include "scores.h"
#include "updates.h"

namespace kgfast {

struct QueryRows {
  Side side;
  const float *entities, *relations;
  const int64_t* triples;  // [batch, 3]
  int64_t batch, dim, relation_width;
};
struct PairRows {
  Similarity similarity;
  const float *query, *table;
  const int64_t* ids;  // [batch, width]
  int64_t batch, width, dim;
};
struct SampledRows {
  Similarity similarity;
  ObjectiveOptions<float> objective;
  const float *query, *table;
  const int64_t *targets, *negatives;  // [batch], [groups, count]
  IdRanges known;
  const float* weights;  // [batch], already divided by their sum
  int64_t batch, groups, count, dim;
  float *losses, *d_query;  // [batch], weighted; [batch, dim] or null where no gradient is wanted
  int64_t* ids;             // independent: [batch, 1 + count], the target first
  float* coefficients;      // independent: [batch, 1 + count]; shared: [batch]
  float* scores;            // shared: [batch, count], scores and then their coefficients
  float* d_negatives;       // shared: [groups, count, dim]
};
// Ids that are sorted together, one source after the other; those of a table stand above the ids of tables before it.
struct IdSources {
  const int64_t* ids[kMostSources];
  int64_t count[kMostSources], first_id[kMostSources];
};
// Sorted (id << 32 | position): positions count the pairs first, then the extra rows of each source. Where several
// tables were sorted together, this one's ids and positions begin at first_id and first_position.
struct SortedRows {
  Similarity similarity;
  const uint64_t* entries;
  const int64_t* places;  // of each entry: its row in a sparse gradient; or null
  int64_t first_id, first_position;
  int64_t total, pairs, width, dim;
  const float *query, *table, *coefficients;
  const float* extra_rows[kMostExtras];
  int64_t extra_count[kMostExtras];
  float* partial;  // [2, tiles, dim]
};
// Constants are float64 in memory, in the order of UpdateConstants: a captured graph must read them there.
struct DeviceRowUpdate {
  Update rule;
  float *rows, *state1, *state2;
  const double* constants;
};
constexpr int64_t kTilePairs = 64;  // sorted entries of a team

#define KGFAST_DEVICE_FUNCTIONS                                                                                        \
  void sample(const generic::Draws&, const IdRanges& known, int64_t lists, int64_t count, int64_t* ids, void* stream); \
  void queries(int score, const QueryRows&, float* out, void* stream);                                                 \
  void queries_adjoint(int score, const QueryRows&, const float* d_query, float* d_anchor, float* d_relation,          \
                       void* stream);                                                                                  \
  void pair_scores(const PairRows&, float* scores, void* stream);                                                      \
  void pair_query_gradient(const PairRows&, const float* scores, const float* g, float* coefficients, float* d_query,  \
                           void* stream);                                                                              \
  void independent_loss(const SampledRows&, void* stream);                                                             \
  void shared_loss(const SampledRows&, void* stream);                                                                  \
  void sort_bytes(int64_t total, int64_t& bytes);                                                                      \
  void sort_rows(const IdSources&, int64_t bound, uint64_t* entries, uint64_t* other, void* workspace,                 \
                 int64_t workspace_bytes, void* stream);                                                               \
  void reduce_rows(const SortedRows&, const DeviceRowUpdate&, void* stream);                                           \
  void update_all_rows(int64_t rows, int64_t dim, const float* gradients, const DeviceRowUpdate&, void* stream);       \
  void regularizer(Regularizer, int parts, float weight, const float* table, const int64_t* ids, int64_t count,        \
                   int64_t dim, float* gradients, void* stream);

namespace device {
KGFAST_DEVICE_FUNCTIONS
}
namespace host {
KGFAST_DEVICE_FUNCTIONS
// The grids of this thread's launches since `watch_launches`, which says whether kernels run or are counted only.
void watch_launches(bool runs);
std::vector<std::pair<int64_t, int64_t>> launched_grids();
}  // namespace host

}  // namespace kgfast
