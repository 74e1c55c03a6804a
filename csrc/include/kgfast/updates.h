// What a row optimizer does to one number of a row, for host and device.
#pragma once

#include <cmath>

#include "core.h"
#include "scores.h"

namespace kgfast {
namespace KGFAST_LEVEL {

// Where a row's gradient goes: added to rows (kDense: the table's gradient; kSparse: one row for each unique id), or an
// optimizer's step of the table in place. adam_rate is lr with both corrections of Adam's bias. `constants`, where not
// null, holds the five last fields on the device: what a captured graph reads must lie in memory.
template <class F> struct UpdateRule {
  Update update;
  F *rows, *state1, *state2;
  const double* constants;
  F lr, eps, beta1, beta2, adam_rate;

  KG_HD UpdateRule read() const {
    if (!constants) return *this;
    return {update,          rows,           state1, state2, nullptr, F(constants[0]), F(constants[1]), F(constants[2]),
            F(constants[3]), F(constants[4])};
  }
};

// The step size of a row under row-wise Adagrad whose sum of squares has grown to `sum`.
template <class F> KG_HD F row_rate(const UpdateRule<F>& rule, F sum) { return rule.lr / (root(sum) + rule.eps); }

// x, and its state, under the gradient g; rate: of row-wise Adagrad.
template <class F> KG_HD void update_number(const UpdateRule<F>& rule, F g, F rate, F& x, F& state1, F& state2) {
  switch (rule.update) {
    case Update::kDense:
    case Update::kSparse: x += g; break;
    case Update::kSgd: x -= rule.lr * g; break;
    case Update::kRowAdagrad: x -= rate * g; break;
    case Update::kAdagrad:
      state1 += g * g;
      x -= rule.lr * g / (root(state1) + rule.eps);
      break;
    case Update::kAdam:
      state1 = rule.beta1 * state1 + (1 - rule.beta1) * g;
      state2 = rule.beta2 * state2 + (1 - rule.beta2) * g * g;
      x -= rule.adam_rate * state1 / (root(state2) + rule.eps);
  }
}
KG_HD int states_of(Update update) { return update == Update::kAdam ? 2 : (update == Update::kAdagrad ? 1 : 0); }

// d/dx of weight * (|x|^3 | x^2); modulus: |x| where a row is of real numbers, the complex number's where not.
template <class F> KG_HD F regularizer_slope(Regularizer kind, F weight, F x, F modulus) {
  return kind == Regularizer::kL2 ? 2 * weight * x : 3 * weight * modulus * x;
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
