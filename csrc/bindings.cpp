// pybind11 module kgfast._C: addresses and sizes in, nothing out. Every argument has been checked in Python
// (backends/cpu.py); the interpreter's lock is released while kernels run. No torch here, so one build serves every
// torch.
#include "bindings.h"

#include <map>
#include <optional>

#include "kgfast/api.h"

namespace py = pybind11;
using namespace kgfast;

template <class Call> static void with_dtype(int dtype, Call call) {
  if (dtype == int(Dtype::kFloat32)) call(float{});
  else if (dtype == int(Dtype::kFloat64)) call(double{});
  else throw std::invalid_argument("dtype code " + std::to_string(dtype) + " is not supported");
}

static void queries(int dtype, int score, int side, Address entities, Address relations, Address triples, int64_t batch,
                    int64_t dim, int64_t relation_width, int threads, Address out) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    const QueryArguments<F> a{code_at<Side>(side),
                              at<const F>(entities),
                              at<const F>(relations),
                              at<const int64_t>(triples),
                              batch,
                              dim,
                              relation_width,
                              threads};
    kernels<F>().queries(score_at(score), a, at<F>(out));
  });
}

static void queries_adjoint(int dtype, int score, int side, Address entities, Address relations, Address triples,
                            int64_t batch, int64_t dim, int64_t relation_width, int threads, Address d_query,
                            Address d_anchor, Address d_relation) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    const QueryArguments<F> a{code_at<Side>(side),
                              at<const F>(entities),
                              at<const F>(relations),
                              at<const int64_t>(triples),
                              batch,
                              dim,
                              relation_width,
                              threads};
    kernels<F>().queries_adjoint(score_at(score), a, at<const F>(d_query), at<F>(d_anchor), at<F>(d_relation));
  });
}

static void pair_scores(int dtype, int similarity, Address query, Address table, Address ids, int64_t batch,
                        int64_t width, int64_t dim, int threads, Address scores) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().pair_scores(code_at<Similarity>(similarity), at<const F>(query), at<const F>(table),
                             at<const int64_t>(ids), batch, width, dim, threads, at<F>(scores));
  });
}

static void pair_query_gradient(int dtype, int similarity, Address query, Address table, Address ids, Address scores,
                                Address g, int64_t batch, int64_t width, int64_t dim, int threads, Address coefficients,
                                Address d_query) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().pair_query_gradient(code_at<Similarity>(similarity), at<const F>(query), at<const F>(table),
                                     at<const int64_t>(ids), at<const F>(scores), at<const F>(g), batch, width, dim,
                                     threads, at<F>(coefficients), at<F>(d_query));
  });
}

static void all_scores(int dtype, int similarity, Address query, Address table, int64_t batch, int64_t count,
                       int64_t dim, int threads, Address scores) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().all_scores(code_at<Similarity>(similarity), at<const F>(query), at<const F>(table), batch, count, dim,
                            threads, at<F>(scores));
  });
}

static void all_scores_gradient(int dtype, int similarity, Address query, Address table, Address scores, Address g,
                                int64_t batch, int64_t count, int64_t dim, int threads, Address d_query,
                                Address d_table) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().all_scores_gradient(code_at<Similarity>(similarity), at<const F>(query), at<const F>(table),
                                     at<const F>(scores), at<const F>(g), batch, count, dim, threads, at<F>(d_query),
                                     at<F>(d_table));
  });
}

// (rule, rows, state1, state2, lr, eps, beta1, beta2, Adam's rate)
using UpdateTuple = std::tuple<int, Address, Address, Address, double, double, double, double, double>;
template <class F> static RowUpdate<F> update_at(const UpdateTuple& update) {
  const auto& [rule, rows, state1, state2, lr, eps, beta1, beta2, adam_rate] = update;
  const UpdateConstants<F> constants{F(lr), F(eps), F(beta1), F(beta2), F(adam_rate)};
  return {code_at<Update>(rule), at<F>(rows), at<F>(state1), at<F>(state2), constants};
}

// The order of a step's rows: (entries, starts, number of unique ids).
using OrderTuple = std::tuple<Address, Address, int64_t>;
static RowOrder order_at(const OrderTuple& order) {
  const auto& [entries, starts, unique] = order;
  return {at<const uint64_t>(entries), at<const int64_t>(starts), unique};
}

static void fill_pair_ids(Address targets, Address negatives, int64_t batch, int64_t count, int threads, Address ids) {
  pair_ids(at<const int64_t>(targets), at<const int64_t>(negatives), batch, count, threads, at<int64_t>(ids));
}

// The first source holds the pairs. Returns the number of unique ids.
static int64_t order_rows(const std::vector<Ids>& sources, int64_t rows, int threads, Address entries, Address starts,
                          Address single) {
  constexpr size_t kMost = 1 + kMostExtras;
  if (sources.size() > kMost) throw std::invalid_argument("at most 5 sources of ids");
  const int64_t* ids[kMost];
  int64_t counts[kMost], total = 0;
  for (size_t s = 0; s < sources.size(); ++s)
    ids[s] = at<const int64_t>(sources[s].first), total += counts[s] = sources[s].second;
  if (total >= (int64_t(1) << 32)) throw std::invalid_argument("more than 2^32 - 1 rows in one step");
  return sort_rows(ids, counts, int(sources.size()), rows, threads, at<uint64_t>(entries), at<int64_t>(starts),
                   at<uint8_t>(single));
}

static void sampled_loss(int dtype, int similarity, int objective, double margin, double temperature, Address query,
                         Address table, Address targets, Address negatives, Address starts, Address ends, Address known,
                         Address weights, int64_t batch, int64_t groups, int64_t count, int64_t dim, int threads,
                         Address ids, Address single, const std::optional<UpdateTuple>& update, Address losses,
                         Address d_query, Address coefficients, Address d_negatives) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    const ObjectiveOptions<F> options{code_at<Objective>(objective), F(margin), F(temperature)};
    const RowUpdate<F> now = update ? update_at<F>(*update) : RowUpdate<F>{};
    kernels<F>().sampled_loss(
        {code_at<Similarity>(similarity), options, at<const F>(query), at<const F>(table), at<const int64_t>(targets),
         at<const int64_t>(negatives), ranges_at(starts, ends, known), at<const F>(weights), batch, groups, count, dim,
         threads, at<const int64_t>(ids), at<const uint8_t>(single), now},
        {at<F>(losses), at<F>(d_query), at<F>(coefficients), at<F>(d_negatives)});
  });
}

static Objective candidate_objective_at(int code) {
  const Objective objective = code_at<Objective>(code);
  bool found = false;
  generic::with_candidate_objective(objective, [&](auto) { found = true; });
  if (found) return objective;
  throw std::invalid_argument(std::string("objective ") + Enumeration<Objective>::kWords[code] +
                              " has no loss over all candidates");
}

static void candidate_loss(int dtype, int similarity, int objective, double smoothing, Address query, Address table,
                           Address bias, Address starts, Address ends, Address answers, Address weights, int64_t batch,
                           int64_t count, int64_t dim, int64_t workspace, int threads, bool bf16, Address losses,
                           Address d_query, Address d_table, Address d_bias, Address known_starts, Address known_ends,
                           Address known) {
  if (bf16 && !bf16_supported())
    throw std::invalid_argument("bf16 needs a CPU with AVX-512 BF16, and its level in use");
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().candidate_loss(
        {code_at<Similarity>(similarity), candidate_objective_at(objective), F(smoothing), at<const F>(query),
         at<const F>(table), at<const F>(bias), ranges_at(starts, ends, answers),
         ranges_at(known_starts, known_ends, known), at<const F>(weights), batch, count, dim,
         workspace / int64_t(sizeof(F)), threads, bf16},
        {at<F>(losses), at<F>(d_query), at<F>(d_table), at<F>(d_bias)});
  });
}

static void rank(int dtype, int similarity, Address query, Address table, Address targets, Address starts, Address ends,
                 Address known, int64_t batch, int64_t count, int64_t dim, int threads, Address greater, Address equal,
                 Address target_scores) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().rank({code_at<Similarity>(similarity), at<const F>(query), at<const F>(table),
                       ranges_at(starts, ends, known), batch, count, dim, threads},
                      at<const int64_t>(targets), at<int64_t>(greater), at<int64_t>(equal), at<F>(target_scores));
  });
}

static void topk(int dtype, int similarity, Address query, Address table, Address starts, Address ends,
                 Address excluded, int64_t batch, int64_t count, int64_t dim, int64_t k, int threads, Address scores,
                 Address ids) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().topk({code_at<Similarity>(similarity), at<const F>(query), at<const F>(table),
                       ranges_at(starts, ends, excluded), batch, count, dim, threads},
                      k, at<F>(scores), at<int64_t>(ids));
  });
}

// The row pass over pairs and extra rows; a sparse gradient must have room for every unique row.
static void reduce_rows(int dtype, int similarity, Address query, Address table, Address coefficients, int64_t queries,
                        int64_t width, int64_t dim, const std::vector<Extra>& extras, int threads,
                        const OrderTuple& order, Address single, const UpdateTuple& update) {
  check_extras(extras);
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    RowSources<F> a{};
    a.similarity = code_at<Similarity>(similarity);
    a.query = at<const F>(query), a.table = at<const F>(table), a.pair_coefficients = at<const F>(coefficients);
    a.queries = queries, a.width = width, a.dim = dim, a.threads = threads, a.single = at<const uint8_t>(single);
    for (size_t e = 0; e < extras.size(); ++e)
      a.extra_rows[e] = at<const F>(extras[e].first), a.extra_count[e] = extras[e].second;
    kernels<F>().reduce_rows(a, order_at(order), update_at<F>(update));
  });
}

static void update_all_rows(int dtype, int64_t rows, int64_t dim, Address gradients, const UpdateTuple& update,
                            int threads) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().update_all_rows(rows, dim, at<const F>(gradients), update_at<F>(update), threads);
  });
}

static void regularizer(int dtype, int kind, int parts, double weight, Address table, Address ids, int64_t count,
                        int64_t dim, int threads, Address gradients) {
  with_dtype(dtype, [&](auto f) {
    using F = decltype(f);
    kernels<F>().regularizer(code_at<Regularizer>(kind), parts, F(weight), at<const F>(table), at<const int64_t>(ids),
                             count, dim, threads, at<F>(gradients));
  });
}

static void sample_ids(uint64_t seed, uint64_t step, int side, int64_t lists, int64_t count, int64_t entities,
                       Address weights, Address starts, Address ends, Address known, int threads, Address ids) {
  sample({seed, step, code_at<Side>(side), lists, count, entities, at<const int64_t>(weights),
          ranges_at(starts, ends, known), threads},
         at<int64_t>(ids));
}

// {name: {word: code}} of every enumeration, for comparison with kgfast/registry.py.
template <class... Codes> static std::map<std::string, std::map<std::string, int>> enumerations() {
  std::map<std::string, std::map<std::string, int>> found;
  auto add = [&](const char* name, const auto& words) {
    for (size_t code = 0; code < std::size(words); ++code) found[name][words[code]] = int(code);
  };
  (add(Enumeration<Codes>::kName, Enumeration<Codes>::kWords), ...);
  return found;
}

static std::vector<std::tuple<std::string, std::string, int>> scores() {
  std::vector<std::tuple<std::string, std::string, int>> out;
  for (const ScoreEntry& s : kScoreEntries) out.emplace_back(s.name, s.query_operator, int(s.similarity));
  return out;
}

static std::vector<std::string> cpu_levels() {
  std::vector<std::string> out;
  for (int i = 0; i < level_count(); ++i)
    if (level_at(i).supported()) out.emplace_back(level_at(i).name);
  return out;
}

static void bind_machine(py::module_& m) {
  using namespace py::literals;
  m.def("scores", &scores);
  m.def("enumerations", &enumerations<Side, Similarity, Objective, Update, Regularizer>);
  m.def("cpu_levels", &cpu_levels);
  m.def("bf16_supported", &bf16_supported);
  m.def("cpu_level", [] { return std::string(level().name); });
  m.def("set_cpu_level", [](const std::string& name) { set_level(name.c_str()); }, "name"_a);
  m.def("scratch_bytes", [] { return scratch_total(); });
  m.def("release_scratch", [] { release_scratch(); });
  m.def("use_huge_pages", [](Address memory, int64_t bytes) { return use_huge_pages(at<void>(memory), bytes); },
        "memory"_a, "bytes"_a);
}

static void bind_kernels(py::module_& m) {
  using namespace py::literals;
  using Free = py::call_guard<py::gil_scoped_release>;
  m.def("queries", &queries, Free(), "dtype"_a, "score"_a, "side"_a, "entities"_a, "relations"_a, "triples"_a,
        "batch"_a, "dim"_a, "relation_width"_a, "threads"_a, "out"_a);
  m.def("queries_adjoint", &queries_adjoint, Free(), "dtype"_a, "score"_a, "side"_a, "entities"_a, "relations"_a,
        "triples"_a, "batch"_a, "dim"_a, "relation_width"_a, "threads"_a, "d_query"_a, "d_anchor"_a, "d_relation"_a);
  m.def("pair_scores", &pair_scores, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a, "ids"_a, "batch"_a,
        "width"_a, "dim"_a, "threads"_a, "scores"_a);
  m.def("pair_query_gradient", &pair_query_gradient, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a, "ids"_a,
        "scores"_a, "g"_a, "batch"_a, "width"_a, "dim"_a, "threads"_a, "coefficients"_a, "d_query"_a);
  m.def("all_scores", &all_scores, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a, "batch"_a, "count"_a,
        "dim"_a, "threads"_a, "scores"_a);
  m.def("all_scores_gradient", &all_scores_gradient, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a,
        "scores"_a, "g"_a, "batch"_a, "count"_a, "dim"_a, "threads"_a, "d_query"_a, "d_table"_a);
  m.def("sampled_loss", &sampled_loss, Free(), "dtype"_a, "similarity"_a, "objective"_a, "margin"_a, "temperature"_a,
        "query"_a, "table"_a, "targets"_a, "negatives"_a, "starts"_a, "ends"_a, "known"_a, "weights"_a, "batch"_a,
        "groups"_a, "count"_a, "dim"_a, "threads"_a, "ids"_a, "single"_a, "update"_a, "losses"_a, "d_query"_a,
        "coefficients"_a, "d_negatives"_a);
  m.def("candidate_loss", &candidate_loss, Free(), "dtype"_a, "similarity"_a, "objective"_a, "smoothing"_a, "query"_a,
        "table"_a, "bias"_a, "starts"_a, "ends"_a, "answers"_a, "weights"_a, "batch"_a, "count"_a, "dim"_a,
        "workspace"_a, "threads"_a, "bf16"_a, "losses"_a, "d_query"_a, "d_table"_a, "d_bias"_a, "known_starts"_a = 0,
        "known_ends"_a = 0, "known"_a = 0);
  m.def("rank", &rank, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a, "targets"_a, "starts"_a, "ends"_a,
        "known"_a, "batch"_a, "count"_a, "dim"_a, "threads"_a, "greater"_a, "equal"_a, "target_scores"_a);
  m.def("topk", &topk, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a, "starts"_a, "ends"_a, "excluded"_a,
        "batch"_a, "count"_a, "dim"_a, "k"_a, "threads"_a, "scores"_a, "ids"_a);
  m.def("pair_ids", &fill_pair_ids, Free(), "targets"_a, "negatives"_a, "batch"_a, "count"_a, "threads"_a, "ids"_a);
  m.def("order_rows", &order_rows, Free(), "sources"_a, "rows"_a, "threads"_a, "entries"_a, "starts"_a, "single"_a);
  m.def("reduce_rows", &reduce_rows, Free(), "dtype"_a, "similarity"_a, "query"_a, "table"_a, "coefficients"_a,
        "queries"_a, "width"_a, "dim"_a, "extras"_a, "threads"_a, "order"_a, "single"_a, "update"_a);
  m.def("update_all_rows", &update_all_rows, Free(), "dtype"_a, "rows"_a, "dim"_a, "gradients"_a, "update"_a,
        "threads"_a);
  m.def("regularizer", &regularizer, Free(), "dtype"_a, "kind"_a, "parts"_a, "weight"_a, "table"_a, "ids"_a, "count"_a,
        "dim"_a, "threads"_a, "gradients"_a);
  m.def("sample", &sample_ids, Free(), "seed"_a, "step"_a, "side"_a, "lists"_a, "count"_a, "entities"_a, "weights"_a,
        "starts"_a, "ends"_a, "known"_a, "threads"_a, "ids"_a);
}

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled CPU kernels of kgfast";
  m.attr("__version__") = KGFAST_VERSION;
  bind_machine(m);
  bind_kernels(m);
  bind_cuda(m);
}
