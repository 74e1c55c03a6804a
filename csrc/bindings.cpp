// pybind11 module kgfast._C: addresses and sizes in, nothing out. Every argument has been checked in Python (ops.py);
// the interpreter's lock is released while kernels run. No torch here, so one build serves every torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_bindings.h"
#include "kgfast/api.h"

namespace py = pybind11;
using namespace kgfast;
using Address = uintptr_t;

template <class T> static T* at(Address address) { return reinterpret_cast<T*>(address); }
static Known known_at(Address starts, Address ends, Address ids) {
  return {at<const int64_t>(starts), at<const int64_t>(ends), at<const int64_t>(ids)};
}

template <class Call> static void with_dtype(int dtype, Call call) {
  if (dtype == int(Dtype::kFloat32)) call(float{});
  else if (dtype == int(Dtype::kFloat64)) call(double{});
  else throw std::invalid_argument("dtype code " + std::to_string(dtype) + " is not supported");
}
static void check_code(const char* what, int code, int count) {
  if (code < 0 || code >= count)
    throw std::invalid_argument(std::string(what) + " code " + std::to_string(code) + " is unknown");
}
static Similarity similarity_at(int code) {
  if (code < 0 || code > 3) throw std::invalid_argument("similarity code " + std::to_string(code) + " is unknown");
  return Similarity(code);
}

struct ScoreEntry {
  const char *name, *query_operator;
  Similarity similarity;
};
static const ScoreEntry kScores_[] = {
#define KGFAST_ENTRY(name, Op, Sim) {#name, #Op, Similarity::Sim},
    KGFAST_SCORES(KGFAST_ENTRY)
#undef KGFAST_ENTRY
};

static void queries(int dtype, int score, int side, Address entities, Address relations, Address triples, int64_t batch,
                    int64_t dim, int64_t relation_width, int threads, Address out) {
  check_code("score", score, int(std::size(kScores_))), check_code("side", side, 2);
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().queries(score,
                         {Side(side), at<const F>(entities), at<const F>(relations), at<const int64_t>(triples), batch,
                          dim, relation_width, threads},
                         at<F>(out));
  });
}

static void queries_adjoint(int dtype, int score, int side, Address entities, Address relations, Address triples,
                            int64_t batch, int64_t dim, int64_t relation_width, int threads, Address d_query,
                            Address d_anchor, Address d_relation) {
  check_code("score", score, int(std::size(kScores_))), check_code("side", side, 2);
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().queries_adjoint(score,
                                 {Side(side), at<const F>(entities), at<const F>(relations), at<const int64_t>(triples),
                                  batch, dim, relation_width, threads},
                                 at<const F>(d_query), at<F>(d_anchor), at<F>(d_relation));
  });
}

static void pair_scores(int dtype, int similarity, Address query, Address table, Address ids, int64_t batch,
                        int64_t width, int64_t dim, int threads, Address scores) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().pair_scores(similarity_at(similarity), at<const F>(query), at<const F>(table), at<const int64_t>(ids),
                             batch, width, dim, threads, at<F>(scores));
  });
}

static void pair_query_gradient(int dtype, int similarity, Address query, Address table, Address ids, Address scores,
                                Address g, int64_t batch, int64_t width, int64_t dim, int threads, Address coefficients,
                                Address d_query) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().pair_query_gradient(similarity_at(similarity), at<const F>(query), at<const F>(table),
                                     at<const int64_t>(ids), at<const F>(scores), at<const F>(g), batch, width, dim,
                                     threads, at<F>(coefficients), at<F>(d_query));
  });
}

static void all_scores(int dtype, int similarity, Address query, Address table, int64_t batch, int64_t count,
                       int64_t dim, int threads, Address scores) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().all_scores(similarity_at(similarity), at<const F>(query), at<const F>(table), batch, count, dim,
                            threads, at<F>(scores));
  });
}

static void all_scores_gradient(int dtype, int similarity, Address query, Address table, Address scores, Address g,
                                int64_t batch, int64_t count, int64_t dim, int threads, Address d_query,
                                Address d_table) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().all_scores_gradient(similarity_at(similarity), at<const F>(query), at<const F>(table),
                                     at<const F>(scores), at<const F>(g), batch, count, dim, threads, at<F>(d_query),
                                     at<F>(d_table));
  });
}

// Optimizer and output of the row pass: (update, rows, state1, state2, lr, eps, beta1, beta2, step)
using SinkTuple = std::tuple<int, Address, Address, Address, double, double, double, double, int64_t>;
template <class F> static Sink<F> sink_at(const SinkTuple& s) {
  check_code("update", std::get<0>(s), 6);
  // the corrections must be of the same rounded betas that the moments are made with
  const double lr = std::get<4>(s), beta1 = F(std::get<6>(s)), beta2 = F(std::get<7>(s)), step = double(std::get<8>(s));
  const double rate = lr * std::sqrt(1 - std::pow(beta2, step)) / (1 - std::pow(beta1, step));
  return {Update(std::get<0>(s)),
          at<F>(std::get<1>(s)),
          at<F>(std::get<2>(s)),
          at<F>(std::get<3>(s)),
          F(lr),
          F(std::get<5>(s)),
          F(beta1),
          F(beta2),
          F(rate)};
}

// The order of a step's rows: (entries, starts, number of unique ids).
using OrderTuple = std::tuple<Address, Address, int64_t>;
static RowOrder order_at(const OrderTuple& o) {
  return {at<const uint64_t>(std::get<0>(o)), at<const int64_t>(std::get<1>(o)), std::get<2>(o)};
}

static void fill_pair_ids(Address targets, Address negatives, int64_t batch, int64_t count, int threads, Address ids) {
  pair_ids(at<const int64_t>(targets), at<const int64_t>(negatives), batch, count, threads, at<int64_t>(ids));
}

// Sources are (ids, count); the first holds the pairs. Returns the number of unique ids.
static int64_t order_rows(const std::vector<std::pair<Address, int64_t>>& sources, int64_t rows, int threads,
                          Address entries, Address starts, Address single) {
  if (sources.size() > 5) throw std::invalid_argument("at most 5 sources of ids");
  const int64_t* ids[5];
  int64_t counts[5], total = 0;
  for (size_t s = 0; s < sources.size(); ++s)
    ids[s] = at<const int64_t>(sources[s].first), total += counts[s] = sources[s].second;
  if (total >= (int64_t(1) << 32)) throw std::invalid_argument("more than 2^32 - 1 rows in one step");
  return sort_rows(ids, counts, int(sources.size()), rows, threads, at<uint64_t>(entries), at<int64_t>(starts),
                   at<uint8_t>(single));
}

static void sampled_loss(int dtype, int similarity, int objective, double margin, double temperature, Address query,
                         Address table, Address targets, Address negatives, Address starts, Address ends, Address known,
                         Address weights, int64_t batch, int64_t groups, int64_t count, int64_t dim, int threads,
                         Address ids, Address single, const std::optional<SinkTuple>& finish, Address losses,
                         Address d_query, Address coefficients, Address d_negatives) {
  check_code("objective", objective, 4);
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().sampled_loss(
        {similarity_at(similarity), Objective(objective), F(margin), F(temperature), at<const F>(query),
         at<const F>(table), at<const int64_t>(targets), at<const int64_t>(negatives), known_at(starts, ends, known),
         at<const F>(weights), batch, groups, count, dim, threads, at<const int64_t>(ids), at<const uint8_t>(single),
         finish ? sink_at<F>(*finish) : Sink<F>{}},
        {at<F>(losses), at<F>(d_query), at<F>(coefficients), at<F>(d_negatives)});
  });
}

static void candidate_loss(int dtype, int similarity, int objective, double smoothing, Address query, Address table,
                           Address bias, Address starts, Address ends, Address answers, Address weights, int64_t batch,
                           int64_t count, int64_t dim, int64_t workspace, int threads, bool bf16, Address losses,
                           Address d_query, Address d_table, Address d_bias) {
  check_code("objective", objective, 4);
  if (bf16 && !bf16_supported())
    throw std::invalid_argument("bf16 needs a CPU with AVX-512 BF16, and its level in use");
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().candidate_loss(
        {similarity_at(similarity), Objective(objective), F(smoothing), at<const F>(query), at<const F>(table),
         at<const F>(bias), known_at(starts, ends, answers), at<const F>(weights), batch, count, dim,
         workspace / int64_t(sizeof(F)), threads, bf16},
        {at<F>(losses), at<F>(d_query), at<F>(d_table), at<F>(d_bias)});
  });
}

static void rank(int dtype, int similarity, Address query, Address table, Address targets, Address starts, Address ends,
                 Address known, int64_t batch, int64_t count, int64_t dim, int threads, Address greater, Address equal,
                 Address target_scores) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().rank({similarity_at(similarity), at<const F>(query), at<const F>(table), known_at(starts, ends, known),
                       batch, count, dim, threads},
                      at<const int64_t>(targets), at<int64_t>(greater), at<int64_t>(equal), at<F>(target_scores));
  });
}

static void topk(int dtype, int similarity, Address query, Address table, Address starts, Address ends,
                 Address excluded, int64_t batch, int64_t count, int64_t dim, int64_t k, int threads, Address scores,
                 Address ids) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().topk({similarity_at(similarity), at<const F>(query), at<const F>(table),
                       known_at(starts, ends, excluded), batch, count, dim, threads},
                      k, at<F>(scores), at<int64_t>(ids));
  });
}

using Extra = std::pair<Address, int64_t>;  // rows, count

// The row pass over pairs and extra rows; the sink of a sparse gradient must have room for every unique row.
static void reduce_rows(int dtype, int similarity, Address query, Address table, Address coefficients, int64_t queries,
                        int64_t width, int64_t dim, const std::vector<Extra>& extras, int threads,
                        const OrderTuple& order, Address single, const SinkTuple& sink) {
  if (extras.size() > 4) throw std::invalid_argument("at most 4 extra sources");
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    RowSources<F> a{};
    a.similarity = similarity_at(similarity);
    a.query = at<const F>(query), a.table = at<const F>(table), a.pair_coefficients = at<const F>(coefficients);
    a.queries = queries, a.width = width, a.dim = dim, a.threads = threads, a.single = at<const uint8_t>(single);
    for (size_t e = 0; e < extras.size(); ++e)
      a.extra_rows[e] = at<const F>(extras[e].first), a.extra_count[e] = extras[e].second;
    kernels<F>().reduce_rows(a, order_at(order), sink_at<F>(sink));
  });
}

static void update_all_rows(int dtype, int64_t rows, int64_t dim, Address gradients, const SinkTuple& sink,
                            int threads) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().update_all_rows(rows, dim, at<const F>(gradients), sink_at<F>(sink), threads);
  });
}

static void regularizer(int dtype, int kind, int parts, double weight, Address table, Address ids, int64_t count,
                        int64_t dim, int threads, Address gradients) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().regularizer(Regularizer(kind), parts, F(weight), at<const F>(table), at<const int64_t>(ids), count,
                             dim, threads, at<F>(gradients));
  });
}

static void sample_ids(uint64_t seed, uint64_t step, int side, int64_t lists, int64_t count, int64_t entities,
                       Address thresholds, Address aliases, Address starts, Address ends, Address known, int threads,
                       Address ids) {
  sample({seed, step, Side(side), lists, count, entities, at<const int64_t>(thresholds), at<const int64_t>(aliases),
          known_at(starts, ends, known), threads},
         at<int64_t>(ids));
}

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled CPU kernels of kgfast";
  m.attr("__version__") = KGFAST_VERSION;
  m.def("scores", [] {
    std::vector<std::tuple<std::string, std::string, int>> out;
    for (const ScoreEntry& s : kScores_) out.emplace_back(s.name, s.query_operator, int(s.similarity));
    return out;
  });
  m.def("cpu_levels", [] {
    std::vector<std::string> out;
    for (int i = 0; i < level_count(); ++i)
      if (level_at(i).supported()) out.emplace_back(level_at(i).name);
    return out;
  });
  m.def("bf16_supported", &bf16_supported);
  m.def("cpu_level", [] { return std::string(level().name); });
  m.def("set_cpu_level", [](const std::string& name) { set_level(name.c_str()); });
  m.def("scratch_bytes", [] { return scratch_total(); });
  m.def("use_huge_pages", [](Address memory, int64_t bytes) { return use_huge_pages(at<void>(memory), bytes); });
  m.def("release_scratch", [] { release_scratch(); });
  using Free = py::call_guard<py::gil_scoped_release>;
  m.def("queries", &queries, Free());
  m.def("queries_adjoint", &queries_adjoint, Free());
  m.def("pair_scores", &pair_scores, Free());
  m.def("pair_query_gradient", &pair_query_gradient, Free());
  m.def("all_scores", &all_scores, Free());
  m.def("all_scores_gradient", &all_scores_gradient, Free());
  m.def("sampled_loss", &sampled_loss, Free());
  m.def("candidate_loss", &candidate_loss, Free());
  m.def("rank", &rank, Free());
  m.def("topk", &topk, Free());
  m.def("pair_ids", &fill_pair_ids, Free());
  m.def("order_rows", &order_rows, Free());
  m.def("reduce_rows", &reduce_rows, Free());
  m.def("update_all_rows", &update_all_rows, Free());
  m.def("regularizer", &regularizer, Free());
  m.def("sample", &sample_ids, Free());
  bind_cuda(m);
}
