// The choice of instruction set: the best that the machine has, or KGFAST_CPU, or what set_level() says.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kgfast/api.h"

namespace kgfast {

static const Level* const kLevels[] = {&kBaselineLevel, &kAvx2Level, &kAvx512Level};
static std::atomic<const Level*> current{nullptr};

int level_count() { return 3; }
const Level& level_at(int index) { return *kLevels[index]; }

void set_level(const char* name) {
  std::string known;
  for (const Level* candidate : kLevels) {
    if (std::string(name) == candidate->name) {
      if (!candidate->supported())
        throw std::invalid_argument("this machine lacks the instructions of CPU level '" + std::string(name) + "'");
      current = candidate;
      return;
    }
    known += std::string(known.empty() ? "" : ", ") + candidate->name;
  }
  throw std::invalid_argument("unknown CPU level '" + std::string(name) + "'; the levels are " + known);
}

const Level& level() {
  if (!current) {
    const char* wanted = std::getenv("KGFAST_CPU");
    if (wanted && *wanted) set_level(wanted);
    else
      for (const Level* candidate : kLevels)
        if (candidate->supported()) current = candidate;
  }
  return *current.load();
}

bool bf16_supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return level().float32 == kAvx512Level.float32 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace kgfast
