// A parallel loop over equal pieces, begun in ascending order. They never depend on the number of threads, so neither
// do results.
#pragma once

#include <cstdint>
#if defined(__SANITIZE_THREAD__)  // which does not see the barriers of OpenMP's runtime
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>
#endif

namespace kgfast {
namespace KGFAST_LEVEL {

template <class Body>
static inline void parallel_for(int64_t count, int64_t grain, int threads, Body body) {
  if (count <= 0) return;  // an empty batch may come with a grain of 0
  const int64_t pieces = (count + grain - 1) / grain;
  if (pieces <= 1 || threads <= 1) {
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t begin = p * grain, end = begin + grain < count ? begin + grain : count;
      body(begin, end, 0);
    }
    return;
  }
#if defined(__SANITIZE_THREAD__)
  std::atomic<int64_t> next{0};
  std::vector<std::thread> team;
  for (int worker = 0; worker < threads; ++worker)
    team.emplace_back([&, worker] {
      for (int64_t p = next++; p < pieces; p = next++) body(p * grain, std::min(p * grain + grain, count), worker);
    });
  for (std::thread& one : team) one.join();
#else
#pragma omp parallel num_threads(threads)
  {
#if defined(_OPENMP)
    const int worker = omp_get_thread_num();
#else
    const int worker = 0;
#endif
#pragma omp for schedule(monotonic : dynamic, 1)
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t begin = p * grain, end = begin + grain < count ? begin + grain : count;
      body(begin, end, worker);
    }
  }
#endif
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
