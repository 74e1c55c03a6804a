// Loss over negatives that rows share. Tiles of 64 x 64 in shared memory, a thread 4 x 4 of them, in true float32 (no
// rounding to TF32): scores [B, N], a pass over each row's objective, then the gradients of queries and of negatives.
// Operations 6 B N D and more; bytes 3 B N scores. Where tensor cores may be used, the Triton backend has the better
// tiles.
#include <type_traits>

#include "kgfast/device.h"
#include "masks.cuh"
#include "slices.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

constexpr int kTile = 64, kStep = 16;  // rows and columns of a tile; what is in shared memory of the third dimension

template <class Sim> using Coordinate = std::conditional_t<Sim::kComplex, Pair<float>, float>;
template <class Sim> KG_DEVICE Coordinate<Sim> coordinate(const float* row, int64_t d, int64_t half) {
  if constexpr (Sim::kComplex) return {row[d], row[d + half]};
  else return row[d];
}
template <class Sim> KG_DEVICE int64_t length_of(int64_t dim) { return Sim::kComplex ? dim / 2 : dim; }

struct Group {  // rows [first, first + rows) share list `list`
  int64_t list, first, rows;
};
KG_DEVICE Group group_at(const SampledRows& a, int64_t list) {
  const int64_t first = (list * a.batch + a.groups - 1) / a.groups;
  return {list, first, ((list + 1) * a.batch + a.groups - 1) / a.groups - first};
}
KG_DEVICE const float* negative_row(const SampledRows& a, int64_t list, int64_t n) {
  const int64_t id = a.negatives[list * a.count + n];
  return a.table + (id < 0 ? 0 : id) * a.dim;  // a masked one has coefficient 0, row 0 stands in for it
}

// scores[b, n]; a block takes a tile of a group's negatives and of its rows, these next to one another.
template <class Sim> struct SharedScores {
  static constexpr int kThreads = 256;
  static constexpr int64_t kShared = 2 * kStep * (kTile + 1) * int64_t(sizeof(Coordinate<Sim>));
  SampledRows a;
  int64_t row_tiles;

  KG_DEVICE void operator()() const {
    using C = Coordinate<Sim>;
    const int64_t across = a.groups * row_tiles, place = block_x() % across;  // negatives may be millions
    const Group group = group_at(a, place / row_tiles);
    const int64_t i0 = place % row_tiles * kTile, n0 = block_x() / across * kTile;
    if (i0 >= group.rows) return;
    const int64_t length = length_of<Sim>(a.dim), half = a.dim / 2;
    C *x = shared<C>(), *y = x + kStep * (kTile + 1);  // [coordinate][row]
    const int ti = thread() / 16 * 4, tn = thread() % 16;
    float sum[4][4] = {};
    for (int64_t d0 = 0; d0 < length; d0 += kStep) {
      for (int e = thread(); e < kTile * kStep; e += kThreads) {
        const int row = e / kStep, d = e % kStep;
        const bool inside = d0 + d < length;
        x[d * (kTile + 1) + row] = inside && i0 + row < group.rows
                                       ? coordinate<Sim>(a.query + (group.first + i0 + row) * a.dim, d0 + d, half)
                                       : C{};
        y[d * (kTile + 1) + row] =
            inside && n0 + row < a.count ? coordinate<Sim>(negative_row(a, group.list, n0 + row), d0 + d, half) : C{};
      }
      sync();
#pragma unroll
      for (int d = 0; d < kStep; ++d) {
        C u[4], v[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) u[k] = x[d * (kTile + 1) + ti + k], v[k] = y[d * (kTile + 1) + tn + 16 * k];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int n = 0; n < 4; ++n) sum[i][n] = Sim::accumulate(sum[i][n], u[i], v[n]);
      }
      sync();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (i0 + ti + i < group.rows && n0 + tn + 16 * n < a.count)
          a.scores[(group.first + i0 + ti + i) * a.count + n0 + tn + 16 * n] = Sim::score(sum[i][n]);
  }
};

// A block a row: the target's score, the objective, coefficients in place of scores, and the target's part of d_query.
template <class Sim> struct SharedObjective {
  static constexpr int kThreads = 128;
  static constexpr int64_t kShared = 32 * sizeof(float);
  SampledRows a;

  KG_DEVICE void operator()() const {
    const int64_t b = block_x(), list = b * a.groups / a.batch, length = length_of<Sim>(a.dim), half = a.dim / 2;
    const int64_t* negatives = a.negatives + list * a.count;
    const float *query = a.query + b * a.dim, *row = a.table + a.targets[b] * a.dim;
    float *scores = a.scores + b * a.count, *counts = shared<float>(), *terms = counts + 8;
    float part = 0;
    for (int64_t d = thread(); d < length; d += kThreads)
      part = Sim::accumulate(part, coordinate<Sim>(query, d, half), coordinate<Sim>(row, d, half));
    const float target = Sim::score(sum_block<kThreads>(part, counts));
    NegativeSums<float> sums = first_sums(a, target);
    for (int64_t n = thread(); n < a.count; n += kThreads) {
      if (is_masked(a.known, b, a.targets[b], negatives[n])) {
        scores[n] = kMasked;
        continue;
      }
      add_to(sums, a, target, scores[n]);
    }
    sums = merge_block(exponent_of(a), sums, terms);
    const RowLoss<float> row_loss = loss_of(a, b, target, sums);
    const float weight = a.weights[b], d_target = coefficient<Sim>(row_loss.d_target * weight, target);
    if (thread() == 0) a.losses[b] = row_loss.loss * weight, a.coefficients[b] = d_target;
    if (!a.d_query) return;
    finish_coefficients<Sim, kThreads>(a, row_loss.factor / row_loss.divisor * weight, sums.largest, target, scores);
    for (int64_t d = thread(); d < length; d += kThreads) {
      const auto gradient = Sim::add_gradient(Coordinate<Sim>{}, d_target, coordinate<Sim>(query, d, half),
                                              coordinate<Sim>(row, d, half));
      if constexpr (Sim::kComplex) a.d_query[b * a.dim + d] = gradient.a, a.d_query[b * a.dim + d + half] = gradient.b;
      else a.d_query[b * a.dim + d] = gradient;
    }
  }

  // Sums relative to the block's largest score, to every thread.
  static KG_DEVICE NegativeSums<float> merge_block(float exponent, NegativeSums<float> own, float* terms) {
    const float largest = largest_in_block(own.largest, terms), scale = rescaling(exponent, own.largest, largest);
    float parts[3] = {own.weight * scale, own.value * scale, own.gradient * scale};
    sum_warp(parts);
    if (lane() == 0)
      for (int i = 0; i < 3; ++i) terms[4 + 3 * warp() + i] = parts[i];
    sync();
    NegativeSums<float> sums{largest, 0, 0, 0};
    for (int w = 0; w < kThreads / 32; ++w)
      sums.weight += terms[4 + 3 * w], sums.value += terms[5 + 3 * w], sums.gradient += terms[6 + 3 * w];
    return sums;
  }
  static KG_DEVICE float largest_in_block(float x, float* tops) {
    x = max_warp(x);
    if (lane() == 0) tops[warp()] = x;
    sync();
    float top = tops[0];
    for (int w = 1; w < kThreads / 32; ++w) top = tops[w] > top ? tops[w] : top;
    return top;
  }
};

// out[i] (+)= sum_j g[i, j] d similarity(x_i, y_j) / dx_i, i and j being rows and negatives of a group or the other way
// round. grid: (group, tile of i) x tile of coordinates. A thread owns 4 x 4 coordinates, so sums have one order.
template <class Sim, bool kOfQueries> struct SharedGradients {
  static constexpr int kThreads = 256;
  static constexpr int64_t kShared =
      kStep * kTile * int64_t(sizeof(Coordinate<Sim>)) + kStep * (kTile + 1) * int64_t(sizeof(float));
  SampledRows a;
  int64_t row_tiles;

  KG_DEVICE const float* row_of(const Group& group, bool query, int64_t i) const {
    return query ? a.query + (group.first + i) * a.dim : negative_row(a, group.list, i);
  }
  KG_DEVICE void operator()() const {
    using C = Coordinate<Sim>;
    const Group group = group_at(a, block_x() / row_tiles);
    const int64_t i0 = block_x() % row_tiles * kTile, d0 = int64_t(block_y()) * kTile;
    const int64_t rows = kOfQueries ? group.rows : a.count, others = kOfQueries ? a.count : group.rows;
    if (i0 >= rows) return;
    const int64_t length = length_of<Sim>(a.dim), half = a.dim / 2;
    C* y = shared<C>();                                            // [j][coordinate]
    float* g = shared<float>(kStep * kTile * int64_t(sizeof(C)));  // [j][i]
    const int ti = thread() / 16 * 4, td = thread() % 16;
    C x[4][4], sum[4][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k)
        x[i][k] = i0 + ti + i < rows && d0 + td + 16 * k < length
                      ? coordinate<Sim>(row_of(group, kOfQueries, i0 + ti + i), d0 + td + 16 * k, half)
                      : C{};
    for (int64_t j0 = 0; j0 < others; j0 += kStep) {
      for (int e = thread(); e < kStep * kTile; e += kThreads) {
        const int64_t j = j0 + e / kTile, d = d0 + e % kTile;
        y[e] = j < others && d < length ? coordinate<Sim>(row_of(group, !kOfQueries, j), d, half) : C{};
        // neighbours in memory are negatives: they go to neighbouring threads
        const int fast = kOfQueries ? kStep : kTile, gj = kOfQueries ? e % fast : e / fast,
                  gi = kOfQueries ? e / fast : e % fast;
        const int64_t row = kOfQueries ? i0 + gi : j0 + gj, negative = kOfQueries ? j0 + gj : i0 + gi;
        g[gj * (kTile + 1) + gi] =
            row < group.rows && negative < a.count ? a.scores[(group.first + row) * a.count + negative] : 0.f;
      }
      sync();
#pragma unroll 2
      for (int j = 0; j < kStep; ++j) {
        C v[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = y[j * kTile + td + 16 * k];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float c = g[j * (kTile + 1) + ti + i];
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[i][k] = Sim::add_gradient(sum[i][k], c, x[i][k], v[k]);
        }
      }
      sync();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int64_t row = i0 + ti + i, d = d0 + td + 16 * k;
        if (row >= rows || d >= length) continue;
        float* out =
            kOfQueries ? a.d_query + (group.first + row) * a.dim : a.d_negatives + (group.list * a.count + row) * a.dim;
        if constexpr (Sim::kComplex) put(out + d, sum[i][k].a), put(out + d + half, sum[i][k].b);
        else put(out + d, sum[i][k]);
      }
  }
  static KG_DEVICE void put(float* out, float value) { *out = kOfQueries ? *out + value : value; }
};

void shared_loss(const SampledRows& a, void* stream) {
  if (a.batch == 0) return;
  const int64_t largest = (a.batch + a.groups - 1) / a.groups, row_tiles = (largest + kTile - 1) / kTile;
  const int64_t negative_tiles = (a.count + kTile - 1) / kTile;
  with_similarity(a.similarity, [&](auto sim) {
    using Sim = decltype(sim);
    const int64_t columns = ((Sim::kComplex ? a.dim / 2 : a.dim) + kTile - 1) / kTile;
    launch(SharedScores<Sim>{a, row_tiles}, Grid{a.groups * row_tiles * negative_tiles}, SharedScores<Sim>::kShared,
           stream);
    launch(SharedObjective<Sim>{a}, Grid{a.batch}, SharedObjective<Sim>::kShared, stream);
    if (!a.d_query) return;
    launch(SharedGradients<Sim, true>{a, row_tiles}, Grid{a.groups * row_tiles, columns},
           SharedGradients<Sim, true>::kShared, stream);
    launch(SharedGradients<Sim, false>{a, negative_tiles}, Grid{a.groups * negative_tiles, columns},
           SharedGradients<Sim, false>::kShared, stream);
  });
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
