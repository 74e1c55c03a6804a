// The module kgfast._C.cuda: the CUDA kernels by addresses, sizes and the caller's stream. on_host runs the same
// kernels on the CPU. Every argument has been checked in Python (backends/cuda.py).
#include "bindings.h"

#include "kgfast/device.h"

#if defined(__linux__)
#define KGFAST_HOST_KERNELS 1
#endif

namespace py = pybind11;
using namespace kgfast;

namespace {

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
// (rule, rows, state1, state2, constants)
using UpdateTuple = std::tuple<int, Address, Address, Address, Address>;
DeviceRowUpdate update_at(const UpdateTuple& update) {
  const auto& [rule, rows, state1, state2, constants] = update;
  return {code_at<Update>(rule), at<float>(rows), at<float>(state1), at<float>(state2), at<const double>(constants)};
}
QueryRows query_rows(int side, Address entities, Address relations, Address triples, int64_t batch, int64_t dim,
                     int64_t relation_width) {
  const float *from = at<const float>(entities), *by = at<const float>(relations);
  return {code_at<Side>(side), from, by, at<const int64_t>(triples), batch, dim, relation_width};
}
PairRows pair_rows(int similarity, Address query, Address table, Address ids, int64_t batch, int64_t width,
                   int64_t dim) {
  const float *queries = at<const float>(query), *rows = at<const float>(table);
  return {code_at<Similarity>(similarity), queries, rows, at<const int64_t>(ids), batch, width, dim};
}

void sample(Target target, uint64_t seed, uint64_t step, Address step_at, int side, int64_t lists, int64_t count,
            int64_t entities, Address weights, Address starts, Address ends, Address known, Address ids) {
  const Where where = where_of(target);
  const int64_t *place = at<const int64_t>(step_at), *weighted = at<const int64_t>(weights);
  const generic::Draws draws{seed, step, place, code_at<Side>(side), entities, weighted};
  KGFAST_RUN(where, sample(draws, ranges_at(starts, ends, known), lists, count, at<int64_t>(ids), where.stream));
}

void queries(Target target, int score, int side, Address entities, Address relations, Address triples, int64_t batch,
             int64_t dim, int64_t relation_width, Address out) {
  const Where where = where_of(target);
  const QueryRows rows = query_rows(side, entities, relations, triples, batch, dim, relation_width);
  KGFAST_RUN(where, queries(score_at(score), rows, at<float>(out), where.stream));
}

void queries_adjoint(Target target, int score, int side, Address entities, Address relations, Address triples,
                     int64_t batch, int64_t dim, int64_t relation_width, Address d_query, Address d_anchor,
                     Address d_relation) {
  const Where where = where_of(target);
  const QueryRows rows = query_rows(side, entities, relations, triples, batch, dim, relation_width);
  KGFAST_RUN(where, queries_adjoint(score_at(score), rows, at<const float>(d_query), at<float>(d_anchor),
                                    at<float>(d_relation), where.stream));
}

void pair_scores(Target target, int similarity, Address query, Address table, Address ids, int64_t batch, int64_t width,
                 int64_t dim, Address scores) {
  const Where where = where_of(target);
  const PairRows rows = pair_rows(similarity, query, table, ids, batch, width, dim);
  KGFAST_RUN(where, pair_scores(rows, at<float>(scores), where.stream));
}

void pair_query_gradient(Target target, int similarity, Address query, Address table, Address ids, Address scores,
                         Address g, int64_t batch, int64_t width, int64_t dim, Address coefficients, Address d_query) {
  const Where where = where_of(target);
  const PairRows rows = pair_rows(similarity, query, table, ids, batch, width, dim);
  KGFAST_RUN(where, pair_query_gradient(rows, at<const float>(scores), at<const float>(g), at<float>(coefficients),
                                        at<float>(d_query), where.stream));
}

void sampled_loss(Target target, int similarity, int objective, double margin, double temperature, Address query,
                  Address table, Address targets, Address negatives, Address starts, Address ends, Address known,
                  Address weights, int64_t batch, int64_t groups, int64_t count, int64_t dim, Address losses,
                  Address d_query, Address ids, Address coefficients, Address scores, Address d_negatives) {
  const Where where = where_of(target);
  SampledRows rows{};
  rows.similarity = code_at<Similarity>(similarity);
  rows.objective = {code_at<Objective>(objective), float(margin), float(temperature)};
  rows.query = at<const float>(query), rows.table = at<const float>(table);
  rows.targets = at<const int64_t>(targets), rows.negatives = at<const int64_t>(negatives);
  rows.known = ranges_at(starts, ends, known), rows.weights = at<const float>(weights);
  rows.batch = batch, rows.groups = groups, rows.count = count, rows.dim = dim;
  rows.losses = at<float>(losses), rows.d_query = at<float>(d_query), rows.ids = at<int64_t>(ids);
  rows.coefficients = at<float>(coefficients), rows.scores = at<float>(scores);
  rows.d_negatives = at<float>(d_negatives);
  if (groups == batch) KGFAST_RUN(where, independent_loss(rows, where.stream));
  else KGFAST_RUN(where, shared_loss(rows, where.stream));
}

int64_t sort_bytes(Target target, int64_t total) {
  const Where where = where_of(target);
  int64_t bytes = 0;
  KGFAST_RUN(where, sort_bytes(total, bytes));
  return bytes;
}

// sources: (ids, count, id of the table's first row)
void sort_rows(Target target, const std::vector<std::tuple<Address, int64_t, int64_t>>& sources, int64_t bound,
               Address entries, Address other, Address workspace, int64_t workspace_bytes) {
  if (sources.size() > size_t(kMostSources)) throw std::invalid_argument("at most 10 sources of ids");
  const Where where = where_of(target);
  IdSources all{};
  for (size_t s = 0; s < sources.size(); ++s) {
    const auto& [address, count, first_id] = sources[s];
    all.ids[s] = at<const int64_t>(address), all.count[s] = count, all.first_id[s] = first_id;
  }
  KGFAST_RUN(where, sort_rows(all, bound, at<uint64_t>(entries), at<uint64_t>(other), at<void>(workspace),
                              workspace_bytes, where.stream));
}

// first: id and position of the table's first row and entry, where several tables were sorted together
void reduce_rows(Target target, int similarity, Address entries, Address places, int64_t total,
                 const std::pair<int64_t, int64_t>& first, Address query, Address table, Address coefficients,
                 int64_t pairs, int64_t width, int64_t dim, const std::vector<Extra>& extras, Address partial,
                 const UpdateTuple& update) {
  check_extras(extras);
  const Where where = where_of(target);
  SortedRows rows{};
  rows.similarity = code_at<Similarity>(similarity);
  rows.entries = at<const uint64_t>(entries), rows.places = at<const int64_t>(places);
  rows.first_id = first.first, rows.first_position = first.second;
  rows.total = total, rows.pairs = pairs, rows.width = width, rows.dim = dim;
  rows.query = at<const float>(query), rows.table = at<const float>(table);
  rows.coefficients = at<const float>(coefficients), rows.partial = at<float>(partial);
  for (size_t e = 0; e < extras.size(); ++e)
    rows.extra_rows[e] = at<const float>(extras[e].first), rows.extra_count[e] = extras[e].second;
  KGFAST_RUN(where, reduce_rows(rows, update_at(update), where.stream));
}

void update_all_rows(Target target, int64_t rows, int64_t dim, Address gradients, const UpdateTuple& update) {
  const Where where = where_of(target);
  KGFAST_RUN(where, update_all_rows(rows, dim, at<const float>(gradients), update_at(update), where.stream));
}

void regularizer(Target target, int kind, int parts, double weight, Address table, Address ids, int64_t count,
                 int64_t dim, Address gradients) {
  const Where where = where_of(target);
  KGFAST_RUN(where, regularizer(code_at<Regularizer>(kind), parts, float(weight), at<const float>(table),
                                at<const int64_t>(ids), count, dim, at<float>(gradients), where.stream));
}

#if defined(KGFAST_HOST_KERNELS)
void watch_host(bool runs) { host::watch_launches(runs); }
std::vector<std::pair<int64_t, int64_t>> host_grids() { return host::launched_grids(); }
#else
void watch_host(bool) {}
std::vector<std::pair<int64_t, int64_t>> host_grids() { return {}; }
#endif

}  // namespace

void kgfast::bind_cuda(py::module_& parent) {
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
  using namespace py::literals;
  using Free = py::call_guard<py::gil_scoped_release>;
  m.def("watch_host", &watch_host, "runs"_a);
  m.def("host_grids", &host_grids);
  m.def("sample", &sample, Free(), "target"_a, "seed"_a, "step"_a, "step_at"_a, "side"_a, "lists"_a, "count"_a,
        "entities"_a, "weights"_a, "starts"_a, "ends"_a, "known"_a, "ids"_a);
  m.def("queries", &queries, Free(), "target"_a, "score"_a, "side"_a, "entities"_a, "relations"_a, "triples"_a,
        "batch"_a, "dim"_a, "relation_width"_a, "out"_a);
  m.def("queries_adjoint", &queries_adjoint, Free(), "target"_a, "score"_a, "side"_a, "entities"_a, "relations"_a,
        "triples"_a, "batch"_a, "dim"_a, "relation_width"_a, "d_query"_a, "d_anchor"_a, "d_relation"_a);
  m.def("pair_scores", &pair_scores, Free(), "target"_a, "similarity"_a, "query"_a, "table"_a, "ids"_a, "batch"_a,
        "width"_a, "dim"_a, "scores"_a);
  m.def("pair_query_gradient", &pair_query_gradient, Free(), "target"_a, "similarity"_a, "query"_a, "table"_a, "ids"_a,
        "scores"_a, "g"_a, "batch"_a, "width"_a, "dim"_a, "coefficients"_a, "d_query"_a);
  m.def("sampled_loss", &sampled_loss, Free(), "target"_a, "similarity"_a, "objective"_a, "margin"_a, "temperature"_a,
        "query"_a, "table"_a, "targets"_a, "negatives"_a, "starts"_a, "ends"_a, "known"_a, "weights"_a, "batch"_a,
        "groups"_a, "count"_a, "dim"_a, "losses"_a, "d_query"_a, "ids"_a, "coefficients"_a, "scores"_a,
        "d_negatives"_a);
  m.def("sort_bytes", &sort_bytes, Free(), "target"_a, "total"_a);
  m.def("sort_rows", &sort_rows, Free(), "target"_a, "sources"_a, "bound"_a, "entries"_a, "other"_a, "workspace"_a,
        "workspace_bytes"_a);
  m.def("reduce_rows", &reduce_rows, Free(), "target"_a, "similarity"_a, "entries"_a, "places"_a, "total"_a, "first"_a,
        "query"_a, "table"_a, "coefficients"_a, "pairs"_a, "width"_a, "dim"_a, "extras"_a, "partial"_a, "update"_a);
  m.def("update_all_rows", &update_all_rows, Free(), "target"_a, "rows"_a, "dim"_a, "gradients"_a, "update"_a);
  m.def("regularizer", &regularizer, Free(), "target"_a, "kind"_a, "parts"_a, "weight"_a, "table"_a, "ids"_a, "count"_a,
        "dim"_a, "gradients"_a);
}
