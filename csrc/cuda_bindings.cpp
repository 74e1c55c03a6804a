// The module kgfast._C.cuda: the CUDA kernels by addresses, sizes and the caller's stream. on_host runs the same
// kernels on the CPU. Every argument has been checked in Python (backends/cuda.py).
#include "cuda_bindings.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kgfast/device.h"

#if defined(__linux__)
#define KGFAST_HOST_KERNELS 1
#endif

namespace py = pybind11;
using namespace kgfast;

namespace {

using Address = uintptr_t;
template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }
AnswerRanges ranges_at(Address starts, Address ends, Address ids) {
  return {at<const int64_t>(starts), at<const int64_t>(ends), at<const int64_t>(ids)};
}

struct Where {  // (on_host, stream)
  bool on_host;
  void* stream;
};
Where where_of(const std::pair<bool, Address>& target) { return {target.first, at<void>(target.second)}; }

#if defined(KGFAST_HAS_CUDA)
#define KGFAST_ON_DEVICE(call) device::call
#else
#define KGFAST_ON_DEVICE(call) throw std::runtime_error("kgfast was built without its CUDA kernels: " KGFAST_CUDA_ABOUT)
#endif
#if defined(KGFAST_HOST_KERNELS)
#define KGFAST_ON_HOST(call) host::call
#else
#define KGFAST_ON_HOST(call) throw std::runtime_error("the CUDA kernels run on the host under Linux only")
#endif
#define KGFAST_RUN(where, call) \
  do {                          \
    if (where.on_host) {        \
      KGFAST_ON_HOST(call);     \
    } else {                    \
      KGFAST_ON_DEVICE(call);   \
    }                           \
  } while (false)

using Target = std::pair<bool, Address>;
// (update, rows, state1, state2, constants): lr, eps, beta1, beta2 and Adam's rate are float64 in memory
using SinkTuple = std::tuple<int, Address, Address, Address, Address>;
generic::UpdateRule<float> rule_at(const SinkTuple& s) {
  const auto& [update, rows, state1, state2, constants] = s;
  return {Update(update),
          at<float>(rows),
          at<float>(state1),
          at<float>(state2),
          at<const double>(constants),
          0,
          0,
          0,
          0,
          0};
}

void sample(Target target, uint64_t seed, uint64_t step, Address step_at, int side, int64_t lists, int64_t count,
            int64_t entities, Address thresholds, Address aliases, Address starts, Address ends, Address known,
            Address ids) {
  const Where where = where_of(target);
  const generic::Draws draws{seed,
                             step,
                             at<const int64_t>(step_at),
                             Side(side),
                             entities,
                             at<const int64_t>(thresholds),
                             at<const int64_t>(aliases)};
  KGFAST_RUN(where, sample(draws, ranges_at(starts, ends, known), lists, count, at<int64_t>(ids), where.stream));
}

void queries(Target target, int score, int side, Address entities, Address relations, Address triples, int64_t batch,
             int64_t dim, int64_t relation_width, Address out) {
  const Where where = where_of(target);
  const QueryRows rows{
      Side(side),    at<const float>(entities), at<const float>(relations), at<const int64_t>(triples), batch, dim,
      relation_width};
  KGFAST_RUN(where, queries(score, rows, at<float>(out), where.stream));
}

void queries_adjoint(Target target, int score, int side, Address entities, Address relations, Address triples,
                     int64_t batch, int64_t dim, int64_t relation_width, Address d_query, Address d_anchor,
                     Address d_relation) {
  const Where where = where_of(target);
  const QueryRows rows{
      Side(side),    at<const float>(entities), at<const float>(relations), at<const int64_t>(triples), batch, dim,
      relation_width};
  KGFAST_RUN(where, queries_adjoint(score, rows, at<const float>(d_query), at<float>(d_anchor), at<float>(d_relation),
                                    where.stream));
}

void pair_scores(Target target, int similarity, Address query, Address table, Address ids, int64_t batch, int64_t width,
                 int64_t dim, Address scores) {
  const Where where = where_of(target);
  const PairRows rows{Similarity(similarity),
                      at<const float>(query),
                      at<const float>(table),
                      at<const int64_t>(ids),
                      batch,
                      width,
                      dim};
  KGFAST_RUN(where, pair_scores(rows, at<float>(scores), where.stream));
}

void pair_query_gradient(Target target, int similarity, Address query, Address table, Address ids, Address scores,
                         Address g, int64_t batch, int64_t width, int64_t dim, Address coefficients, Address d_query) {
  const Where where = where_of(target);
  const PairRows rows{Similarity(similarity),
                      at<const float>(query),
                      at<const float>(table),
                      at<const int64_t>(ids),
                      batch,
                      width,
                      dim};
  KGFAST_RUN(where, pair_query_gradient(rows, at<const float>(scores), at<const float>(g), at<float>(coefficients),
                                        at<float>(d_query), where.stream));
}

void sampled_loss(Target target, int similarity, int objective, double margin, double temperature, Address query,
                  Address table, Address targets, Address negatives, Address starts, Address ends, Address known,
                  Address weights, int64_t batch, int64_t groups, int64_t count, int64_t dim, Address losses,
                  Address d_query, Address ids, Address coefficients, Address scores, Address d_negatives) {
  const Where where = where_of(target);
  const SampledRows rows{Similarity(similarity),
                         {Objective(objective), float(margin), float(temperature)},
                         at<const float>(query),
                         at<const float>(table),
                         at<const int64_t>(targets),
                         at<const int64_t>(negatives),
                         ranges_at(starts, ends, known),
                         at<const float>(weights),
                         batch,
                         groups,
                         count,
                         dim,
                         at<float>(losses),
                         at<float>(d_query),
                         at<int64_t>(ids),
                         at<float>(coefficients),
                         at<float>(scores),
                         at<float>(d_negatives)};
  if (groups == batch) KGFAST_RUN(where, independent_loss(rows, where.stream));
  else KGFAST_RUN(where, shared_loss(rows, where.stream));
}

int64_t sort_bytes(Target target, int64_t total) {
  const Where where = where_of(target);
  int64_t bytes = 0;
  KGFAST_RUN(where, sort_bytes(total, bytes));
  return bytes;
}

void sort_rows(Target target, const std::vector<std::pair<Address, int64_t>>& sources, int64_t bound, Address entries,
               Address other, Address workspace, int64_t workspace_bytes) {
  const Where where = where_of(target);
  std::vector<const int64_t*> ids;
  std::vector<int64_t> counts;
  for (const auto& [address, count] : sources) ids.push_back(at<const int64_t>(address)), counts.push_back(count);
  KGFAST_RUN(where, sort_rows(ids.data(), counts.data(), int(ids.size()), bound, at<uint64_t>(entries),
                              at<uint64_t>(other), at<void>(workspace), workspace_bytes, where.stream));
}

void reduce_rows(Target target, int similarity, Address entries, Address places, int64_t total, Address query,
                 Address table, Address coefficients, int64_t pairs, int64_t width, int64_t dim,
                 const std::vector<std::pair<Address, int64_t>>& extras, Address partial, const SinkTuple& sink) {
  if (extras.size() > 4) throw std::invalid_argument("at most 4 sources of ready rows");
  const Where where = where_of(target);
  SortedRows rows{Similarity(similarity),
                  at<const uint64_t>(entries),
                  at<const int64_t>(places),
                  total,
                  pairs,
                  width,
                  dim,
                  at<const float>(query),
                  at<const float>(table),
                  at<const float>(coefficients),
                  {},
                  {},
                  at<float>(partial)};
  for (size_t e = 0; e < extras.size(); ++e)
    rows.extra_rows[e] = at<const float>(extras[e].first), rows.extra_count[e] = extras[e].second;
  KGFAST_RUN(where, reduce_rows(rows, rule_at(sink), where.stream));
}

void update_all_rows(Target target, int64_t rows, int64_t dim, Address gradients, const SinkTuple& sink) {
  const Where where = where_of(target);
  KGFAST_RUN(where, update_all_rows(rows, dim, at<const float>(gradients), rule_at(sink), where.stream));
}

void regularizer(Target target, int kind, int parts, double weight, Address table, Address ids, int64_t count,
                 int64_t dim, Address gradients) {
  const Where where = where_of(target);
  KGFAST_RUN(where, regularizer(Regularizer(kind), parts, float(weight), at<const float>(table), at<const int64_t>(ids),
                                count, dim, at<float>(gradients), where.stream));
}

}  // namespace

void bind_cuda(py::module_& parent) {
  py::module_ m = parent.def_submodule("cuda", "CUDA kernels of kgfast, on a GPU or run thread by thread on the host");
#if defined(KGFAST_HAS_CUDA)
  m.attr("built") = true;
#else
  m.attr("built") = false;
#endif
#if defined(KGFAST_HOST_KERNELS)
  m.attr("on_host") = true;
#else
  m.attr("on_host") = false;
#endif
  m.attr("about") = KGFAST_CUDA_ABOUT;
  m.attr("tile_pairs") = kTilePairs;
  using Free = py::call_guard<py::gil_scoped_release>;
  m.def("sample", &sample, Free());
  m.def("queries", &queries, Free());
  m.def("queries_adjoint", &queries_adjoint, Free());
  m.def("pair_scores", &pair_scores, Free());
  m.def("pair_query_gradient", &pair_query_gradient, Free());
  m.def("sampled_loss", &sampled_loss, Free());
  m.def("sort_bytes", &sort_bytes, Free());
  m.def("sort_rows", &sort_rows, Free());
  m.def("reduce_rows", &reduce_rows, Free());
  m.def("update_all_rows", &update_all_rows, Free());
  m.def("regularizer", &regularizer, Free());
}
