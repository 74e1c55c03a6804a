// The pass over touched rows. Sorted ids are cut into tiles of 64 entries, one for each team, so hot rows (relations,
// hubs) cost no more than others: a row inside a tile goes straight to its optimizer, a row that crosses tiles leaves
// partial sums, which a second launch adds in order. No atomics: neither the device nor timing can change a bit. Bytes:
// each pair's query row (from the second-level cache), each touched row and its state once read and once written.
#include <type_traits>

#include "kgfast/device.h"
#include "kgfast/updates.h"
#include "masks.cuh"
#include "slices.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

KG_DEVICE RowUpdate<float> read(const DeviceRowUpdate& u) {
  const double* c = u.constants;
  return {u.rule, u.rows, u.state1, u.state2, {float(c[0]), float(c[1]), float(c[2]), float(c[3]), float(c[4])}};
}

// The step size of a row under a rule that makes it of the row's mean square. All threads call it: `sync` for them all.
template <class Rule, class Sync>
KG_DEVICE float rate_of(const RowUpdate<float>& update, int64_t id, float mean_square, bool writes, Sync sync) {
  float rate = 0;
  if constexpr (Rule::kRowState) {
    float state = update.state1[id];
    rate = Rule::rate(update.constants, mean_square, state);
    sync();  // all have read the state
    if (writes) update.state1[id] = state;
  }
  return rate;
}

// Row `id`, spread over a team, under its gradient. place: its row in a sparse gradient.
template <class Rows, int L>
KG_DEVICE void apply_row(const RowUpdate<float>& update, int64_t id, int64_t place, int dim, bool aligned,
                         const float (&g)[Rows::kNumbers], float* exchange) {
  const int rank = Team<L>::rank();
  with_rule(update.rule, [&](auto rule) {
    using Rule = decltype(rule);
    float squares[1] = {};
    if constexpr (Rule::kRowState) {
#pragma unroll
      for (int i = 0; i < Rows::kNumbers; ++i) squares[0] += g[i] * g[i];
      Team<L>::sum(squares, exchange);
    }
    const float rate = rate_of<Rule>(update, id, squares[0] / float(dim), rank == 0, [] { Team<L>::sync_team(); });
    float* row = update.rows + (Rule::kCompact ? place : id) * dim;
    float *first = update.state1 + id * dim, *second = update.state2 + id * dim;
    // 4 numbers at a time: states would not fit beside the gradient
    Rows::chunks(dim, rank, [&](int i, int d, int left) {
      float x[4], m[4] = {}, v[4] = {};
      Rows::load_chunk(row + d, left, aligned, x);
      if constexpr (Rule::kStates > 0) Rows::load_chunk(first + d, left, aligned, m);
      if constexpr (Rule::kStates > 1) Rows::load_chunk(second + d, left, aligned, v);
#pragma unroll
      for (int j = 0; j < 4; ++j) Rule::step(update.constants, rate, g[i + j], x[j], m[j], v[j]);
      Rows::store_chunk(row + d, left, aligned, x);
      if constexpr (Rule::kStates > 0) Rows::store_chunk(first + d, left, aligned, m);
      if constexpr (Rule::kStates > 1) Rows::store_chunk(second + d, left, aligned, v);
    });
  });
}

KG_DEVICE int64_t id_at(const SortedRows& a, int64_t i) { return int64_t(a.entries[i] >> 32) - a.first_id; }
KG_DEVICE uint32_t position_of(const SortedRows& a, uint64_t entry) {
  return uint32_t(entry) - uint32_t(a.first_position);
}
KG_DEVICE int64_t place_at(const SortedRows& a, int64_t i) { return a.places ? a.places[i] : 0; }
KG_DEVICE const float* extra_row(const SortedRows& a, int64_t position) {
  int source = 0;
  for (position -= a.pairs; position >= a.extra_count[source]; ++source) position -= a.extra_count[source];
  return a.extra_rows[source] + position * a.dim;
}

template <class Sim, int L, int V> struct RowTiles {
  using Rows = Layout<Sim, L, V>;
  static constexpr int kThreads = L == 32 ? 128 : L, kTeams = kThreads / L, kFlight = V <= 4 ? 4 : 2;
  static constexpr int64_t kShared = 64 * sizeof(float);
  SortedRows a;
  DeviceRowUpdate given;
  bool aligned;
  int64_t tiles;

  KG_DEVICE void operator()() const {
    const int64_t tile = block_x() * kTeams + Team<L>::index();
    if (tile >= tiles) return;
    const RowUpdate<float> update = read(given);
    const int64_t begin = tile * kTilePairs, end = begin + kTilePairs < a.total ? begin + kTilePairs : a.total;
    const int rank = Team<L>::rank(), dim = int(a.dim);
    for (int64_t i = begin; i < end;) {
      const int64_t id = id_at(a, i), start = i;
      float row[Rows::kNumbers] = {}, sum[Rows::kNumbers] = {};
      if (!Sim::kMatrixProduct && a.pairs > 0) Rows::load(a.table + id * a.dim, dim, aligned, rank, row);
      i = add_entries(i, end, id, rank, dim, row, sum);
      const bool began_before = start == begin && begin > 0 && id_at(a, begin - 1) == id;
      const bool goes_on = i == end && end < a.total && id_at(a, end) == id;
      if (began_before) Rows::store(a.partial + tile * a.dim, dim, aligned, rank, sum);
      else if (goes_on) Rows::store(a.partial + (tiles + tile) * a.dim, dim, aligned, rank, sum);
      else apply_row<Rows, L>(update, id, place_at(a, start), dim, aligned, sum, shared<float>());
    }
  }

  // Adds entries of `id` from i on, kFlight rows at a time; returns the first that is another's.
  KG_DEVICE int64_t add_entries(int64_t i, int64_t end, int64_t id, int rank, int dim,
                                const float (&row)[Rows::kNumbers], float (&sum)[Rows::kNumbers]) const {
    while (true) {
      float other[kFlight][Rows::kNumbers], c[kFlight];
      int kind[kFlight];  // 0: none, 1: pair, 2: extra row
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        const uint64_t entry = i + r < end ? a.entries[i + r] : 0;
        kind[r] = i + r < end && int64_t(entry >> 32) - a.first_id == id && (r == 0 || kind[r - 1]) ? 1 : 0;
        if (!kind[r]) continue;
        const uint32_t position = position_of(a, entry);
        if (int64_t(position) < a.pairs) {
          c[r] = a.coefficients[position];
          Rows::load(a.query + int64_t(position / uint32_t(a.width)) * a.dim, dim, aligned, rank, other[r]);
        } else {
          kind[r] = 2;
          Rows::load(extra_row(a, position), dim, aligned, rank, other[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        if (kind[r] == 1) {
          Rows::add_gradient(sum, c[r], row, other[r]);
        } else if (kind[r] == 2) {
#pragma unroll
          for (int k = 0; k < Rows::kNumbers; ++k) sum[k] += other[r][k];
        } else {
          return i + r;
        }
      }
      i += kFlight;
    }
  }
};

// Rows that cross tiles, each by the team of the tile where it begins.
template <int L, int V> struct CrossingRows {
  using Rows = Layout<Dot, L, V>;
  static constexpr int kThreads = L == 32 ? 128 : L, kTeams = kThreads / L;
  static constexpr int64_t kShared = 64 * sizeof(float);
  SortedRows a;
  DeviceRowUpdate given;
  bool aligned;
  int64_t tiles;

  KG_DEVICE void operator()() const {
    const int64_t tile = block_x() * kTeams + Team<L>::index();
    if (tile + 1 >= tiles) return;
    const RowUpdate<float> update = read(given);
    const int64_t begin = tile * kTilePairs, end = begin + kTilePairs, id = id_at(a, end - 1);
    if (id_at(a, end) != id) return;  // no row goes on
    if (tile > 0 && id_at(a, begin) == id && id_at(a, begin - 1) == id) return;  // it began before
    const int rank = Team<L>::rank(), dim = int(a.dim);
    float sum[Rows::kNumbers], next[Rows::kNumbers];
    Rows::load(a.partial + (tiles + tile) * a.dim, dim, aligned, rank, sum);
    int64_t last = tile + 1;
    while (last + 1 < tiles && id_at(a, (last + 1) * kTilePairs) == id) ++last;
#pragma unroll 2
    for (int64_t t = tile + 1; t <= last; ++t) {
      Rows::load(a.partial + t * a.dim, dim, aligned, rank, next);
#pragma unroll
      for (int k = 0; k < Rows::kNumbers; ++k) sum[k] += next[k];
    }
    apply_row<Rows, L>(update, id, place_at(a, end - 1), dim, aligned, sum, shared<float>());
  }
};

// One number at a time, for rows of any width: gradient(d) is made twice where a row has a state.
template <int kThreads, class Gradient>
KG_DEVICE void apply_wide(const RowUpdate<float>& update, int64_t id, int64_t place, int64_t dim, Gradient gradient) {
  with_rule(update.rule, [&](auto rule) {
    using Rule = decltype(rule);
    float squares = 0;
    if constexpr (Rule::kRowState) {
      for (int64_t d = thread(); d < dim; d += kThreads) {
        const float g = gradient(d);
        squares += g * g;
      }
      squares = sum_block<kThreads>(squares, shared<float>());
    }
    const float rate = rate_of<Rule>(update, id, squares / float(dim), thread() == 0, [] { sync(); });
    float* row = update.rows + (Rule::kCompact ? place : id) * dim;
    for (int64_t d = thread(); d < dim; d += kThreads) {
      float first = 0, second = 0;
      if constexpr (Rule::kStates > 0) first = update.state1[id * dim + d];
      if constexpr (Rule::kStates > 1) second = update.state2[id * dim + d];
      Rule::step(update.constants, rate, gradient(d), row[d], first, second);
      if constexpr (Rule::kStates > 0) update.state1[id * dim + d] = first;
      if constexpr (Rule::kStates > 1) update.state2[id * dim + d] = second;
    }
  });
}

// Extra rows too wide for registers (RESCAL's relations): a block an entry, which works where a row's entries begin.
struct WideRows {
  static constexpr int kThreads = 256;
  static constexpr int64_t kShared = 32 * sizeof(float);
  SortedRows a;
  DeviceRowUpdate given;

  KG_DEVICE void operator()() const {
    const int64_t i = block_x(), id = id_at(a, i);
    if (i > 0 && id_at(a, i - 1) == id) return;
    apply_wide<kThreads>(read(given), id, place_at(a, i), a.dim, [&](int64_t d) {
      float sum = 0;
      for (int64_t j = i; j < a.total && id_at(a, j) == id; ++j) sum += extra_row(a, position_of(a, a.entries[j]))[d];
      return sum;
    });
  }
};

struct AllRows {
  static constexpr int kThreads = 128;
  static constexpr int64_t kShared = 32 * sizeof(float);
  const float* gradients;
  int64_t dim;
  DeviceRowUpdate given;

  KG_DEVICE void operator()() const {
    const float* g = gradients + block_x() * dim;
    apply_wide<kThreads>(read(given), block_x(), block_x(), dim, [&](int64_t d) { return g[d]; });
  }
};

struct Regularize {
  static constexpr int kThreads = 256;
  Regularizer kind;
  int parts;
  float weight;
  const float* table;
  const int64_t* ids;
  int64_t count, dim;
  float* gradients;

  KG_DEVICE void operator()() const {
    const int64_t i = block_x() * kThreads + thread(), row = i / dim, d = i % dim;
    if (row >= count) return;
    const float* from = table + ids[row] * dim;
    const float x = from[d];
    float modulus = absolute(x);
    if (parts == 2) {
      const float y = from[d < dim / 2 ? d + dim / 2 : d - dim / 2];
      modulus = root(x * x + y * y);
    }
    gradients[i] += regularizer_gradient(kind, weight, x, modulus);
  }
};

void reduce_rows(const SortedRows& a, const DeviceRowUpdate& update, void* stream) {
  if (a.total == 0) return;
  if (a.dim > kWidestRow) {
    if (a.pairs) throw std::invalid_argument("pairs of rows wider than 4096 numbers");
    return launch(WideRows{a, update}, Grid{a.total}, WideRows::kShared, stream);
  }
  const int64_t tiles = (a.total + kTilePairs - 1) / kTilePairs;
  with_similarity(a.pairs ? a.similarity : Similarity::kDot, [&](auto sim) {
    using Sim = decltype(sim);
    const bool aligned = is_aligned<Sim>(a.dim, {a.query, a.table, a.partial, update.rows, update.state1, update.state2,
                                                 a.extra_rows[0], a.extra_rows[1], a.extra_rows[2], a.extra_rows[3]});
    with_layout(a.dim, [&](auto threads, auto chunks) {
      constexpr int L = decltype(threads)::value, V = decltype(chunks)::value;
      using Tiles = RowTiles<Sim, L, V>;
      using Crossing = CrossingRows<L, V>;
      const Grid grid{(tiles + Tiles::kTeams - 1) / Tiles::kTeams};
      launch(Tiles{a, update, aligned, tiles}, grid, Tiles::kShared, stream);
      if (tiles > 1) launch(Crossing{a, update, aligned, tiles}, grid, Crossing::kShared, stream);
    });
  });
}

void update_all_rows(int64_t rows, int64_t dim, const float* gradients, const DeviceRowUpdate& update, void* stream) {
  launch(AllRows{gradients, dim, update}, Grid{rows}, AllRows::kShared, stream);
}

void regularizer(Regularizer kind, int parts, float weight, const float* table, const int64_t* ids, int64_t count,
                 int64_t dim, float* gradients, void* stream) {
  const Grid grid{(count * dim + Regularize::kThreads - 1) / Regularize::kThreads};
  launch(Regularize{kind, parts, weight, table, ids, count, dim, gradients}, grid, 0, stream);
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
