// The penalty on the rows of a batch, for host and device.
#pragma once

#include "core.h"

#define KGFAST_REGULARIZERS(X) X(none, None) X(n3, N3) X(l2, L2)

namespace kgfast {

enum class Regularizer : int { KGFAST_REGULARIZERS(KGFAST_ENUMERATOR) };

namespace KGFAST_LEVEL {

// d/dx of weight * (|x|^3 | x^2); modulus: |x| where a row is of real numbers, the complex number's where not.
template <class F> KG_HD F regularizer_gradient(Regularizer kind, F weight, F x, F modulus) {
  return kind == Regularizer::kL2 ? 2 * weight * x : 3 * weight * modulus * x;
}

}  // namespace KGFAST_LEVEL
}  // namespace kgfast
