// Random ids: a thread makes the four of one Philox block, or one where draws are weighted or avoid known answers.
#include "kgfast/device.h"
#include "machine.cuh"

namespace kgfast {
namespace KGFAST_TARGET {

struct Sample {
  static constexpr int kThreads = 256;
  generic::Draws draws;
  IdRanges known;
  int64_t lists, count;
  int64_t* ids;

  KG_DEVICE void operator()() const {
    const bool plain = !draws.weights && !known.starts;
    const int64_t blocks = plain ? (count + 3) / 4 : count, i = block_x() * kThreads + thread();
    const int64_t list = i / blocks, block = i % blocks;
    if (list >= lists) return;
    int64_t* out = ids + list * count;
    if (plain) {
      const generic::Words x = draws.words(list, block, 0);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (4 * block + j < count) out[4 * block + j] = generic::below(x.w[j], draws.entities);
    } else {
      const int64_t start = known.starts ? known.starts[list] : 0, stop = known.starts ? known.ends[list] : 0;
      out[block] = generic::draw_id(draws, list, block, known.ids + start, stop - start);
    }
  }
};

void sample(const generic::Draws& draws, const IdRanges& known, int64_t lists, int64_t count, int64_t* ids,
            void* stream) {
  const int64_t blocks = draws.weights || known.starts ? count : (count + 3) / 4;
  launch(Sample{draws, known, lists, count, ids}, Grid{(lists * blocks + Sample::kThreads - 1) / Sample::kThreads}, 0,
         stream);
}

}  // namespace KGFAST_TARGET
}  // namespace kgfast
