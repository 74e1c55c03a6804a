// What both halves of kgfast._C share: addresses, and codes checked against the lists that they are made of.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kgfast/core.h"
#include "kgfast/objectives.h"
#include "kgfast/regularizers.h"
#include "kgfast/scores.h"
#include "kgfast/updates.h"

namespace kgfast {

using Address = uintptr_t;
template <class T> T* at(Address address) { return reinterpret_cast<T*>(address); }
inline IdRanges ranges_at(Address starts, Address ends, Address ids) {
  return {at<const int64_t>(starts), at<const int64_t>(ends), at<const int64_t>(ids)};
}

using Ids = std::pair<Address, int64_t>;    // ids, count
using Extra = std::pair<Address, int64_t>;  // gradient rows, count

template <class Code> struct Enumeration;
#define KGFAST_ENUMERATION(Code, LIST)                           \
  template <> struct Enumeration<Code> {                         \
    static constexpr const char* kName = #Code;                  \
    static constexpr const char* kWords[] = {LIST(KGFAST_WORD)}; \
  };
KGFAST_ENUMERATION(Side, KGFAST_SIDES)
KGFAST_ENUMERATION(Similarity, KGFAST_SIMILARITIES)
KGFAST_ENUMERATION(Objective, KGFAST_OBJECTIVES)
KGFAST_ENUMERATION(Update, KGFAST_UPDATES)
KGFAST_ENUMERATION(Regularizer, KGFAST_REGULARIZERS)
#undef KGFAST_ENUMERATION

struct ScoreEntry {
  const char *name, *query_operator;
  Similarity similarity;
};
#define KGFAST_ENTRY(name, Operator, Sim) {#name, #Operator, Similarity::k##Sim},
constexpr ScoreEntry kScoreEntries[] = {KGFAST_SCORES(KGFAST_ENTRY)};
#undef KGFAST_ENTRY

inline int checked(const char* what, int code, size_t count) {
  if (code >= 0 && size_t(code) < count) return code;
  throw std::invalid_argument(std::string(what) + " code " + std::to_string(code) + " is unknown");
}
template <class Code> Code code_at(int code) {
  return Code(checked(Enumeration<Code>::kName, code, std::size(Enumeration<Code>::kWords)));
}
inline void check_extras(const std::vector<Extra>& extras) {
  if (extras.size() > size_t(kMostExtras)) throw std::invalid_argument("at most 4 sources of extra rows");
}
inline int score_at(int code) { return checked("Score", code, std::size(kScoreEntries)); }

void bind_cuda(pybind11::module_& parent);

}  // namespace kgfast
