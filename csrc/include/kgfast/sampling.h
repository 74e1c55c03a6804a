// One draw of a negative, for host and device: uniform or by weight, known answers redrawn exactly. And which negatives
// count in a loss.
#pragma once

#include "philox.h"

namespace kgfast {
namespace KGFAST_LEVEL {

struct Draws {
  uint64_t seed, step;
  const int64_t* step_at;  // where the step stands, if not null: what a captured graph reads must lie in memory
  Side side;
  int64_t entities;
  // By weight, or null: [3, entities], an alias table (thresholds, aliases) and the sums of weights up to each id, as
  // integers, of which those above 0 are at least 1.
  const int64_t* weights;

  KG_HD Words words(int64_t list, int64_t block, uint32_t attempt) const {
    const uint32_t side_bit = side == Side::kHead ? 1u << 31 : 0u;
    const uint64_t now = step_at ? uint64_t(*step_at) : step;
    return philox(seed, uint32_t(block) + side_bit + (attempt << 24), uint32_t(list), uint32_t(now),
                  uint32_t(now >> 32));
  }
};

// The id that is not known and in whose weight the part word / 2^32 of all such weights lies; -1 where they are 0.
KG_HD int64_t weighted_unknown(const Draws& a, uint32_t word, const int64_t* known, int64_t count) {
  const int64_t* sums = a.weights + 2 * a.entities;
  auto before = [&](int64_t id) { return id ? sums[id - 1] : 0; };
  int64_t left = sums[a.entities - 1];
  for (int64_t k = 0; k < count; ++k) left -= sums[known[k]] - before(known[k]);
  if (left == 0) return -1;
  int64_t place = below_wide(word, left);
  for (int64_t k = 0; k < count && before(known[k]) <= place; ++k) place += sums[known[k]] - before(known[k]);
  return lower_bound(sums, 0, a.entities, place + 1);
}

// The id at (list, column), which is none of `known` (ascending); -1 where every entity (of a weight > 0) is known.
KG_HD int64_t draw_id(const Draws& a, int64_t list, int64_t column, const int64_t* known, int64_t count) {
  if (count >= a.entities) return -1;
  uint32_t last = 0;
  if (a.weights) {
    const int64_t *thresholds = a.weights, *aliases = a.weights + a.entities;
    for (uint32_t attempt = 0; attempt < 64; ++attempt) {
      const Words x = a.words(list, column / 2, attempt);
      const bool odd = column % 2;
      const int64_t bucket = below(odd ? x.w[2] : x.w[0], a.entities);
      const int64_t id = int64_t(odd ? x.w[3] : x.w[1]) < thresholds[bucket] ? bucket : aliases[bucket];
      if (!contains(known, count, id)) return id;
    }
    last = 64;  // 64 << 24 leaves the side's bit alone
  }
  const Words x = a.words(list, column / 4, last);
  const int place = int(column % 4);
  const uint32_t word = place == 0 ? x.w[0] : (place == 1 ? x.w[1] : (place == 2 ? x.w[2] : x.w[3]));
  if (a.weights) return weighted_unknown(a, word, known, count);
  return nth_unknown(below(word, a.entities - count), known, count);
}

// Whether a loss leaves a negative of query b out: -1, the target itself, or a known answer.
KG_HD bool is_masked(const IdRanges& known, int64_t b, int64_t target, int64_t id) {
  if (id < 0 || id == target) return true;
  if (!known.starts) return false;
  const int64_t start = known.starts[b];
  return contains(known.ids + start, known.ends[b] - start, id);
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
