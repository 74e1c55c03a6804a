// One draw of a negative, for host and device: uniform or by an alias table, known answers redrawn exactly. And which
// negatives count in a loss.
#pragma once

#include "philox.h"

namespace kgfast {
namespace KGFAST_LEVEL {

struct Draws {
  uint64_t seed, step;
  const int64_t* step_at;  // where the step stands, if not null: what a captured graph reads must lie in memory
  Side side;
  int64_t entities;
  const int64_t *thresholds, *aliases;  // alias table [entities], or null

  KG_HD Words words(int64_t list, int64_t block, uint32_t attempt) const {
    const uint32_t side_bit = side == Side::kHead ? 1u << 31 : 0u;
    const uint64_t now = step_at ? uint64_t(*step_at) : step;
    return philox(seed, uint32_t(block) + side_bit + (attempt << 24), uint32_t(list), uint32_t(now),
                  uint32_t(now >> 32));
  }
};

// The id at (list, column), which is none of `known` (ascending); -1 where every entity is known.
KG_HD int64_t draw_id(const Draws& a, int64_t list, int64_t column, const int64_t* known, int64_t count) {
  if (count >= a.entities) return -1;
  uint32_t last = 0;
  if (a.thresholds) {
    for (uint32_t attempt = 0; attempt < 64; ++attempt) {
      const Words x = a.words(list, column / 2, attempt);
      const bool odd = column % 2;
      const int64_t bucket = below(odd ? x.w[2] : x.w[0], a.entities);
      const int64_t id = int64_t(odd ? x.w[3] : x.w[1]) < a.thresholds[bucket] ? bucket : a.aliases[bucket];
      if (!contains(known, count, id)) return id;
    }
    last = 64;  // a uniform draw; 64 << 24 leaves the side's bit alone
  }
  const Words x = a.words(list, column / 4, last);
  const int place = int(column % 4);
  const uint32_t word = place == 0 ? x.w[0] : (place == 1 ? x.w[1] : (place == 2 ? x.w[2] : x.w[3]));
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
