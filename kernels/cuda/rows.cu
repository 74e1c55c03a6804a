// The pass over touched rows. Sorted ids are cut into tiles of 64 entries, one for each team, so hot rows (relations,
// hubs) cost no more than others: a row inside a tile goes straight to its optimizer, a row that crosses tiles leaves
// partial sums, which a second launch adds in order. No atomics: neither the device nor timing can change a bit. Bytes:
// each pair's query row (from the second-level cache), each touched row and its state once read and once written.
#include <type_traits>

#include "kgfast/device.h"
#include "slices.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

using Rule = UpdateRule<float>;

// The gradient of row `id`, spread over a team, through its rule. place: its row in a sparse gradient.
template <class Rows, int L>
KG_DEVICE void apply_row(const Rule& rule, int64_t id, int64_t place, int dim, bool aligned,
                         const float (&g)[Rows::kNumbers], float* exchange) {
  const int rank = Team<L>::rank();
  float rate = 0;
  if (rule.update == Update::kRowAdagrad) {
    float squares[1] = {};
#pragma unroll
    for (int i = 0; i < Rows::kNumbers; ++i) squares[0] += g[i] * g[i];
    Team<L>::sum(squares, exchange);
    const float sum = rule.state1[id] + squares[0] / float(dim);
    Team<L>::sync_team();  // all have read the state
    if (rank == 0) rule.state1[id] = sum;
    rate = row_rate(rule, sum);
  }
  const int states = states_of(rule.update);
  float *row = rule.rows + (rule.update == Update::kSparse ? place : id) * dim, *first = rule.state1 + id * dim,
        *second = rule.state2 + id * dim;
  Rows::chunks(dim, rank,
               [&](int i, int d, int left) {  // 4 numbers at a time: states would not fit beside the gradient
    float x[4], m[4] = {}, v[4] = {};
    Rows::load_chunk(row + d, left, aligned, x);
    if (states > 0) Rows::load_chunk(first + d, left, aligned, m);
    if (states > 1) Rows::load_chunk(second + d, left, aligned, v);
#pragma unroll
    for (int j = 0; j < 4; ++j) update_number(rule, g[i + j], rate, x[j], m[j], v[j]);
    Rows::store_chunk(row + d, left, aligned, x);
    if (states > 0) Rows::store_chunk(first + d, left, aligned, m);
    if (states > 1) Rows::store_chunk(second + d, left, aligned, v);
  });
}

KG_DEVICE int64_t id_at(const SortedRows& a, int64_t i) { return int64_t(a.entries[i] >> 32); }
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
  Rule given;
  bool aligned;
  int64_t tiles;

  KG_DEVICE void operator()() const {
    const int64_t tile = block_x() * kTeams + Team<L>::index();
    if (tile >= tiles) return;
    const Rule rule = given.read();
    const int64_t begin = tile * kTilePairs, end = begin + kTilePairs < a.total ? begin + kTilePairs : a.total;
    const int rank = Team<L>::rank(), dim = int(a.dim);
    for (int64_t i = begin; i < end;) {
      const int64_t id = id_at(a, i), start = i;
      float row[Rows::kNumbers] = {}, sum[Rows::kNumbers] = {};
      if (Sim::kTag != Similarity::kDot && a.pairs > 0) Rows::load(a.table + id * a.dim, dim, aligned, rank, row);
      i = add_entries(i, end, id, rank, dim, row, sum);
      const bool began_before = start == begin && begin > 0 && id_at(a, begin - 1) == id;
      const bool goes_on = i == end && end < a.total && id_at(a, end) == id;
      if (began_before) Rows::store(a.partial + tile * a.dim, dim, aligned, rank, sum);
      else if (goes_on) Rows::store(a.partial + (tiles + tile) * a.dim, dim, aligned, rank, sum);
      else apply_row<Rows, L>(rule, id, place_at(a, start), dim, aligned, sum, shared<float>());
    }
  }

  // Adds entries of `id` from i on, kFlight rows at a time; returns the first that is another's.
  KG_DEVICE int64_t add_entries(int64_t i, int64_t end, int64_t id, int rank, int dim,
                                const float (&row)[Rows::kNumbers], float (&sum)[Rows::kNumbers]) const {
    while (true) {
      float other[kFlight][Rows::kNumbers], c[kFlight];
      int kind[kFlight];  // 0: none, 1: pair, 2: ready row
#pragma unroll
      for (int r = 0; r < kFlight; ++r) {
        const uint64_t entry = i + r < end ? a.entries[i + r] : 0;
        kind[r] = i + r < end && int64_t(entry >> 32) == id && (r == 0 || kind[r - 1]) ? 1 : 0;
        if (!kind[r]) continue;
        const uint32_t position = uint32_t(entry);
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
          Rows::add_slope(sum, c[r], row, other[r]);
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
  Rule given;
  bool aligned;
  int64_t tiles;

  KG_DEVICE void operator()() const {
    const int64_t tile = block_x() * kTeams + Team<L>::index();
    if (tile + 1 >= tiles) return;
    const Rule rule = given.read();
    const int64_t begin = tile * kTilePairs, end = begin + kTilePairs, id = id_at(a, end - 1);
    if (id_at(a, end) != id) return;                                        // no row goes on
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
    apply_row<Rows, L>(rule, id, place_at(a, end - 1), dim, aligned, sum, shared<float>());
  }
};

// One number at a time, for rows of any width: sum(d) gives the gradient at d, made twice under row-wise Adagrad.
template <int kThreads, class Gradient>
KG_DEVICE void apply_wide(const Rule& rule, int64_t id, int64_t place, int64_t dim, Gradient gradient) {
  float rate = 0;
  if (rule.update == Update::kRowAdagrad) {
    float squares[1] = {};
    for (int64_t d = thread(); d < dim; d += kThreads) {
      const float g = gradient(d);
      squares[0] += g * g;
    }
    sum_warp(squares);
    float* sums = shared<float>();
    if (lane() == 0) sums[warp()] = squares[0];
    sync();
    squares[0] = 0;
    for (int w = 0; w < kThreads / 32; ++w) squares[0] += sums[w];
    const float sum = rule.state1[id] + squares[0] / float(dim);
    sync();  // all have read the state
    if (thread() == 0) rule.state1[id] = sum;
    rate = row_rate(rule, sum);
  }
  const int states = states_of(rule.update);
  for (int64_t d = thread(); d < dim; d += kThreads) {
    float& x = rule.rows[(rule.update == Update::kSparse ? place : id) * dim + d];
    float first = states > 0 ? rule.state1[id * dim + d] : 0.f, second = states > 1 ? rule.state2[id * dim + d] : 0.f;
    update_number(rule, gradient(d), rate, x, first, second);
    if (states > 0) rule.state1[id * dim + d] = first;
    if (states > 1) rule.state2[id * dim + d] = second;
  }
}

// Ready rows too wide for registers (RESCAL's relations): a block an entry, which works where a row's entries begin.
struct WideRows {
  static constexpr int kThreads = 256;
  static constexpr int64_t kShared = 32 * sizeof(float);
  SortedRows a;
  Rule given;

  KG_DEVICE void operator()() const {
    const int64_t i = block_x(), id = id_at(a, i);
    if (i > 0 && id_at(a, i - 1) == id) return;
    apply_wide<kThreads>(given.read(), id, place_at(a, i), a.dim, [&](int64_t d) {
      float sum = 0;
      for (int64_t j = i; j < a.total && id_at(a, j) == id; ++j) sum += extra_row(a, uint32_t(a.entries[j]))[d];
      return sum;
    });
  }
};

struct AllRows {
  static constexpr int kThreads = 128;
  static constexpr int64_t kShared = 32 * sizeof(float);
  const float* gradients;
  int64_t dim;
  Rule given;

  KG_DEVICE void operator()() const {
    const float* g = gradients + block_x() * dim;
    apply_wide<kThreads>(given.read(), block_x(), block_x(), dim, [&](int64_t d) { return g[d]; });
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
    gradients[i] += regularizer_slope(kind, weight, x, modulus);
  }
};

void reduce_rows(const SortedRows& a, const Rule& rule, void* stream) {
  if (a.total == 0) return;
  if (a.dim > kWidestRow) {
    if (a.pairs) throw std::invalid_argument("pairs of rows wider than 4096 numbers");
    return launch(WideRows{a, rule}, Grid{a.total}, WideRows::kShared, stream);
  }
  const int64_t tiles = (a.total + kTilePairs - 1) / kTilePairs;
  with_similarity(a.pairs ? a.similarity : Similarity::kDot, [&](auto sim) {
    using Sim = decltype(sim);
    const bool aligned = is_aligned<Sim>(a.dim, {a.query, a.table, a.partial, rule.rows, rule.state1, rule.state2,
                                                 a.extra_rows[0], a.extra_rows[1], a.extra_rows[2], a.extra_rows[3]});
    with_layout(a.dim, [&](auto threads, auto chunks) {
      constexpr int L = decltype(threads)::value, V = decltype(chunks)::value;
      using Tiles = RowTiles<Sim, L, V>;
      using Crossing = CrossingRows<L, V>;
      const Grid grid{(tiles + Tiles::kTeams - 1) / Tiles::kTeams};
      launch(Tiles{a, rule, aligned, tiles}, grid, Tiles::kShared, stream);
      if (tiles > 1) launch(Crossing{a, rule, aligned, tiles}, grid, Crossing::kShared, stream);
    });
  });
}

void update_all_rows(int64_t rows, int64_t dim, const float* gradients, const Rule& rule, void* stream) {
  launch(AllRows{gradients, dim, rule}, Grid{rows}, AllRows::kShared, stream);
}

void regularizer(Regularizer kind, int parts, float weight, const float* table, const int64_t* ids, int64_t count,
                 int64_t dim, float* gradients, void* stream) {
  const Grid grid{(count * dim + Regularize::kThreads - 1) / Regularize::kThreads};
  launch(Regularize{kind, parts, weight, table, ids, count, dim, gradients}, grid, 0, stream);
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
