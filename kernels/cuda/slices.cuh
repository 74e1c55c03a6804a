// Rows spread over the threads of a team: a warp for rows up to 1024 numbers, a block for wider ones. Each thread holds
// V chunks of 4 numbers in registers, loaded 16 bytes at a time where rows are aligned; past the last coordinate they
// are 0, which adds nothing to any similarity. For complex similarities the first V / 2 chunks are of the real half.
#pragma once

#include "kgfast/objectives.h"
#include "kgfast/scores.h"
#include "machine.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

using namespace generic;

template <int L> struct Team {
  static constexpr int kThreads = L;
  static KG_DEVICE int index() { return thread() / L; }
  static KG_DEVICE int rank() { return thread() % L; }
  // Sums over the team; every thread gets them. `exchange`: shared memory of kMost * L / 32 floats, used by teams of
  // several warps.
  template <int R> static KG_DEVICE void sum(float (&x)[R], float* exchange) {
    sum_warp(x);
    if constexpr (L > 32) {
      sync();  // the last sum's readers are done
      if (lane() == 0)
        for (int r = 0; r < R; ++r) exchange[warp() * R + r] = x[r];
      sync();
#pragma unroll
      for (int r = 0; r < R; ++r) {
        x[r] = 0;
        for (int w = 0; w < L / 32; ++w) x[r] += exchange[w * R + r];
      }
    }
  }
  static KG_DEVICE void sync_team() {
    if constexpr (L > 32) sync();
    else sync_warp();
  }
};

// Whether 16-byte loads may be used for rows of `dim` numbers: both halves of a row must start at multiples of 16
// bytes.
template <class Sim> inline bool is_aligned(int64_t dim, std::initializer_list<const void*> tables) {
  for (const void* table : tables)
    if (reinterpret_cast<uintptr_t>(table) % 16) return false;
  return (Sim::kComplex ? dim / 2 : dim) % 4 == 0;
}

template <class Sim, int L, int V> struct Layout {
  static constexpr bool kComplex = Sim::kComplex;
  static constexpr int kNumbers = 4 * V, kCapacity = 4 * L * V;
  static_assert(!kComplex || V % 2 == 0, "halves of a row take as many chunks each");

  // Calls visit(index in registers, first coordinate, how many of the 4 exist) for each chunk of this thread.
  template <class Visit> static KG_DEVICE void chunks(int dim, int rank, Visit visit) {
    const int length = kComplex ? dim / 2 : dim;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int part = kComplex && v >= V / 2 ? 1 : 0;
      const int d = 4 * (rank + L * (v - part * (V / 2)));
      visit(4 * v, part * length + d, length - d);
    }
  }
  static KG_DEVICE void load_chunk(const float* from, int left, bool aligned, float* x) {
    if (aligned && left > 0) return load_four(from, x);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = j < left ? from[j] : 0.f;
  }
  static KG_DEVICE void store_chunk(float* to, int left, bool aligned, const float* x) {
    if (aligned && left > 0) return store_four(to, x);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < left) to[j] = x[j];
  }
  static KG_DEVICE void load(const float* row, int dim, bool aligned, int rank, float (&x)[kNumbers]) {
    chunks(dim, rank, [&](int i, int d, int left) { load_chunk(row + d, left, aligned, x + i); });
  }
  static KG_DEVICE void store(float* row, int dim, bool aligned, int rank, const float (&x)[kNumbers]) {
    chunks(dim, rank, [&](int i, int d, int left) { store_chunk(row + d, left, aligned, x + i); });
  }
  // This thread's part of the similarity, before it is summed over the team and finished.
  static KG_DEVICE float partial(const float (&x)[kNumbers], const float (&y)[kNumbers]) {
    float sum = 0;
    if constexpr (kComplex) {
#pragma unroll
      for (int i = 0; i < kNumbers / 2; ++i)
        sum = Sim::accumulate(sum, Pair<float>{x[i], x[i + kNumbers / 2]}, Pair<float>{y[i], y[i + kNumbers / 2]});
    } else {
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) sum = Sim::accumulate(sum, x[i], y[i]);
    }
    return sum;
  }
  // sum += c * d similarity(x, y) / dx
  static KG_DEVICE void add_gradient(float (&sum)[kNumbers], float c, const float (&x)[kNumbers],
                                     const float (&y)[kNumbers]) {
    if constexpr (kComplex) {
#pragma unroll
      for (int i = 0; i < kNumbers / 2; ++i) {
        const int j = i + kNumbers / 2;
        const Pair<float> s =
            Sim::add_gradient(Pair<float>{sum[i], sum[j]}, c, Pair<float>{x[i], x[j]}, Pair<float>{y[i], y[j]});
        sum[i] = s.a, sum[j] = s.b;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kNumbers; ++i) sum[i] = Sim::add_gradient(sum[i], c, x[i], y[i]);
    }
  }
};

constexpr int64_t kWidestRow = 4096;  // in registers of a team

// call(team size, chunks a thread): the smallest that holds rows of `dim` numbers.
template <class Call> void with_layout(int64_t dim, Call call) {
  auto pick = [&](auto threads, auto chunks) { call(threads, chunks); };
  if (dim <= 256) pick(std::integral_constant<int, 32>{}, std::integral_constant<int, 2>{});
  else if (dim <= 512) pick(std::integral_constant<int, 32>{}, std::integral_constant<int, 4>{});
  else if (dim <= 1024) pick(std::integral_constant<int, 32>{}, std::integral_constant<int, 8>{});
  else if (dim <= kWidestRow) pick(std::integral_constant<int, 256>{}, std::integral_constant<int, 4>{});
  else
    throw std::invalid_argument("rows of " + std::to_string(dim) +
                                " numbers are wider than the CUDA kernels take (4096)");
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
