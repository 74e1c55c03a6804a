// The order of a step's rows: (id << 32 | position), sorted by id alone; the sort is stable, so positions stay
// ascending.
#include "kgfast/device.h"
#include "machine.cuh"

#if defined(__CUDACC__)
#include <cub/device/device_radix_sort.cuh>
#else
#include <algorithm>
#endif

namespace kgfast {
namespace KGFAST_TARGET {

struct Entries {
  static constexpr int kThreads = 256;
  IdSources a;
  int64_t total;
  uint64_t* entries;

  KG_DEVICE void operator()() const {
    const int64_t position = block_x() * kThreads + thread();
    if (position >= total) return;
    int64_t i = position;
    int source = 0;
    for (; i >= a.count[source]; ++source) i -= a.count[source];
    entries[position] = uint64_t(a.ids[source][i] + a.first_id[source]) << 32 | uint64_t(position);
  }
};

static int bits_below(int64_t bound) {
  int bits = 1;
  while (bits < 31 && (int64_t(1) << bits) < bound) ++bits;
  return bits;
}

#if defined(__CUDACC__)
static size_t radix_sort(void* workspace, size_t bytes, const uint64_t* from, uint64_t* to, int64_t total, int bits,
                         void* stream) {
  check(
      cub::DeviceRadixSort::SortKeys(workspace, bytes, from, to, uint32_t(total), 32, 32 + bits, cudaStream_t(stream)));
  return bytes;
}
#else
static size_t radix_sort(void* workspace, size_t bytes, const uint64_t* from, uint64_t* to, int64_t total, int, void*) {
  if (!workspace || !Launches::seen().runs) return 1;
  std::copy(from, from + total, to);
  std::stable_sort(to, to + total, [](uint64_t x, uint64_t y) { return x >> 32 < y >> 32; });
  return bytes;
}
#endif

void sort_bytes(int64_t total, int64_t& bytes) {
  bytes = int64_t(radix_sort(nullptr, 0, nullptr, nullptr, total, 31, nullptr));
}

void sort_rows(const IdSources& a, int64_t bound, uint64_t* entries, uint64_t* other, void* workspace,
               int64_t workspace_bytes, void* stream) {
  int64_t total = 0;
  for (const int64_t count : a.count) total += count;
  launch(Entries{a, total, other}, Grid{(total + Entries::kThreads - 1) / Entries::kThreads}, 0, stream);
  if (total) radix_sort(workspace, size_t(workspace_bytes), other, entries, total, bits_below(bound), stream);
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
