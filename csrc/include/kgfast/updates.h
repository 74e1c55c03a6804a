// What happens to a row under its gradient, for host and device: it is added up, or it is an optimizer's step. A new
// rule is a struct here and its entry in the list.
#pragma once

#include <cmath>

#include "core.h"
#include "scores.h"

#define KGFAST_UPDATES(X) \
  X(dense, Dense) X(sparse, Sparse) X(sgd, Sgd) X(adagrad, Adagrad) X(row_adagrad, RowAdagrad) X(adam, Adam)

namespace kgfast {

enum class Update : int { KGFAST_UPDATES(KGFAST_ENUMERATOR) };

template <class F> struct UpdateConstants {
  F lr, eps, beta1, beta2;
  F adam_rate;  // lr with both corrections of Adam's bias
};

// Where the gradients of rows go.
template <class F> struct RowUpdate {
  Update rule;
  F *rows, *state1, *state2;
  UpdateConstants<F> constants;
};

namespace KGFAST_LEVEL {

// - step(): changes a number x of a row, and its state, by its gradient g.
// - kStates: numbers of state beside each number of a row, in state1 and state2.
// - kRowState: one number of state for a row instead, in state1; rate() changes it by the row's mean square and returns
//   what step() gets as the row's rate.
// - kCompact: `rows` holds the touched rows alone, in the order of their ids.

struct Dense {  // the gradient of a table
  static constexpr int kStates = 0;
  static constexpr bool kRowState = false, kCompact = false;
  template <class F> static KG_HD void step(const UpdateConstants<F>&, F, F g, F& x, F&, F&) { x += g; }
};

struct Sparse : Dense {  // the gradient of the touched rows
  static constexpr bool kCompact = true;
};

struct Sgd {
  static constexpr int kStates = 0;
  static constexpr bool kRowState = false, kCompact = false;
  template <class F> static KG_HD void step(const UpdateConstants<F>& c, F, F g, F& x, F&, F&) { x -= c.lr * g; }
};

struct Adagrad {  // Duchi et al. 2011
  static constexpr int kStates = 1;
  static constexpr bool kRowState = false, kCompact = false;
  template <class F> static KG_HD void step(const UpdateConstants<F>& c, F, F g, F& x, F& sum, F&) {
    sum += g * g;
    x -= c.lr * g / (root(sum) + c.eps);
  }
};

struct RowAdagrad {  // Adagrad with one sum for a row
  static constexpr int kStates = 0;
  static constexpr bool kRowState = true, kCompact = false;
  template <class F> static KG_HD F rate(const UpdateConstants<F>& c, F mean_square, F& sum) {
    sum += mean_square;
    return c.lr / (root(sum) + c.eps);
  }
  template <class F> static KG_HD void step(const UpdateConstants<F>&, F rate, F g, F& x, F&, F&) { x -= rate * g; }
};

struct Adam {  // Kingma and Ba 2015, for touched rows only
  static constexpr int kStates = 2;
  static constexpr bool kRowState = false, kCompact = false;
  template <class F> static KG_HD void step(const UpdateConstants<F>& c, F, F g, F& x, F& first, F& second) {
    first = c.beta1 * first + (1 - c.beta1) * g;
    second = c.beta2 * second + (1 - c.beta2) * g * g;
    x -= c.adam_rate * first / (root(second) + c.eps);
  }
};

template <class Call> KG_CALLS void with_rule(Update rule, Call call) {
  switch (rule) {
#define KGFAST_CASE(word, Type) \
  case Update::k##Type: return call(Type{});
    KGFAST_UPDATES(KGFAST_CASE)
#undef KGFAST_CASE
  }
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
