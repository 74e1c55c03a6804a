// What needs no vector instructions: workspaces, sampling, and the sort of row ids.
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "kgfast/api.h"
#include "kgfast/sampling.h"
#include "parallel.h"

namespace kgfast {

namespace {
struct Workspace {
  void* memory[kSlots] = {};
  int64_t bytes[kSlots] = {};
  void release() {
    for (int slot = 0; slot < kSlots; ++slot) std::free(memory[slot]), memory[slot] = nullptr, bytes[slot] = 0;
  }
  ~Workspace() { release(); }
};
thread_local Workspace workspace;
}  // namespace

void* scratch_bytes(Slot slot, int64_t bytes) {
  if (bytes > workspace.bytes[slot] || !workspace.memory[slot]) {
    std::free(workspace.memory[slot]);
    workspace.memory[slot] = nullptr, workspace.bytes[slot] = 0;
    const int64_t alignment = bytes >= (2 << 20) ? (2 << 20) : 64;
    const int64_t rounded = (bytes / alignment + 1) * alignment;
    void* memory = std::aligned_alloc(size_t(alignment), size_t(rounded));
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment > 64) madvise(memory, size_t(rounded), MADV_HUGEPAGE);
#endif
    workspace.memory[slot] = memory, workspace.bytes[slot] = rounded;
  }
#if defined(__SANITIZE_ADDRESS__)  // only what was asked for may be touched, however large the buffer has grown
  char* end = static_cast<char*>(workspace.memory[slot]) + bytes;
  __asan_unpoison_memory_region(workspace.memory[slot], size_t(bytes));
  __asan_poison_memory_region(end, size_t(workspace.bytes[slot] - bytes));
#endif
  return workspace.memory[slot];
}
bool use_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, Linux 6.1
  const uintptr_t begin = (uintptr_t(memory) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t end = (uintptr_t(memory) + uintptr_t(bytes)) & ~(kHuge - 1);
  if (end <= begin) return false;
  void* inside = reinterpret_cast<void*>(begin);
  return madvise(inside, end - begin, MADV_HUGEPAGE) == 0 && madvise(inside, end - begin, kCollapse) == 0;
#else
  return false;
#endif
}
void release_scratch() { workspace.release(); }
int64_t scratch_total() {
  int64_t total = 0;
  for (int64_t bytes : workspace.bytes) total += bytes;
  return total;
}

namespace generic {

static int64_t draw(const SampleArguments& a, int64_t list, int64_t column) {
  const Draws draws{a.seed, a.step, nullptr, a.side, a.entities, a.weights};
  const int64_t start = a.known.starts ? a.known.starts[list] : 0, stop = a.known.starts ? a.known.ends[list] : 0;
  return draw_id(draws, list, column, a.known.ids ? a.known.ids + start : nullptr, stop - start);
}

}  // namespace generic

void sample(const SampleArguments& a, int64_t* ids) {
  generic::parallel_for(a.lists, 64, a.threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t list = begin; list < end; ++list) {
      int64_t* out = ids + list * a.count;
      if (a.known.starts || a.weights) {
        for (int64_t column = 0; column < a.count; ++column) out[column] = generic::draw(a, list, column);
        continue;
      }
      const uint32_t side = a.side == Side::kHead ? 1u << 31 : 0u;
      for (int64_t column = 0; column < a.count; column += 4) {
        const generic::Words x = generic::philox(a.seed, uint32_t(column / 4) + side, uint32_t(list), uint32_t(a.step),
                                                 uint32_t(a.step >> 32));
        for (int64_t i = 0; i < 4 && column + i < a.count; ++i) out[column + i] = generic::below(x.w[i], a.entities);
      }
    }
  });
}

void pair_ids(const int64_t* targets, const int64_t* negatives, int64_t batch, int64_t count, int threads,
              int64_t* ids) {
  generic::parallel_for(batch, 64, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      int64_t* out = ids + b * (1 + count);
      out[0] = targets[b];
      for (int64_t n = 0; n < count; ++n)
        out[1 + n] = negatives[b * count + n] < 0 ? targets[b] : negatives[b * count + n];
    }
  });
}

// Least-significant-digit radix sort; stable, so equal ids stay in the order of their positions.
int64_t sort_rows(const int64_t* const* ids, const int64_t* counts, int sources, int64_t bound, int threads,
                  uint64_t* entries, int64_t* starts, uint8_t* single) {
  int64_t total = 0;
  for (int s = 0; s < sources; ++s) total += counts[s];
  int bits = 1;
  while (bits < 31 && (int64_t(1) << bits) < bound) ++bits;
  const int passes = (bits + 8) / 9, digit = (bits + passes - 1) / passes;
  uint64_t* other = scratch<uint64_t>(kSort, total);
  uint64_t *from = passes % 2 ? other : entries, *to = passes % 2 ? entries : other;  // the last pass ends in `entries`
  int64_t first = 0;
  for (int s = 0; s < sources; ++s) {
    generic::parallel_for(counts[s], 16384, threads, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) from[first + i] = uint64_t(ids[s][i]) << 32 | uint64_t(first + i);
    });
    first += counts[s];
  }
  const int64_t buckets = int64_t(1) << digit, mask = buckets - 1;
  const int parts = total < 16384 ? 1 : threads;
  int64_t* counters = scratch<int64_t>(kHistogram, buckets * parts);
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = 32 + pass * digit;
    std::memset(counters, 0, size_t(buckets * parts) * sizeof(int64_t));
    const int64_t share = (total + parts - 1) / parts;
    generic::parallel_for(parts, 1, parts, [&](int64_t part, int64_t, int) {
      int64_t* own = counters + part * buckets;
      for (int64_t i = part * share; i < total && i < (part + 1) * share; ++i)
        ++own[(from[i] >> shift) & uint64_t(mask)];
    });
    int64_t sum = 0;
    for (int64_t bucket = 0; bucket < buckets; ++bucket)
      for (int part = 0; part < parts; ++part) {
        const int64_t count = counters[part * buckets + bucket];
        counters[part * buckets + bucket] = sum, sum += count;
      }
    generic::parallel_for(parts, 1, parts, [&](int64_t part, int64_t, int) {
      int64_t* own = counters + part * buckets;
      for (int64_t i = part * share; i < total && i < (part + 1) * share; ++i)
        to[own[(from[i] >> shift) & uint64_t(mask)]++] = from[i];
    });
    std::swap(from, to);
  }
  int64_t unique = 0;
  for (int64_t i = 0; i < total; ++i)
    if (i == 0 || (entries[i] >> 32) != (entries[i - 1] >> 32)) starts[unique++] = i;
  starts[unique] = total;
  if (single)
    for (int64_t u = 0; u < unique; ++u)
      for (int64_t i = starts[u]; i < starts[u + 1]; ++i)
        if (int64_t(uint32_t(entries[i])) < counts[0]) single[uint32_t(entries[i])] = starts[u + 1] - starts[u] == 1;
  return unique;
}

}  // namespace kgfast
