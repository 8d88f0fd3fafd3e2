// The activations of recurrent layers on vectors, and their gradients.
//
// exp(x) is 2^n 2^r with x = (n + r) log 2 and a polynomial in r; tanh and sigmoid follow from it, tanh by way of
// exp(x) - 1 so that small arguments keep their digits.

#ifndef FLAX_RNN_ACTIVATIONS_H_
#define FLAX_RNN_ACTIVATIONS_H_

#include <string_view>

#include "vector.h"

namespace flax_rnn {

enum class Activation { kLinear, kTanh, kSigmoid, kRelu, kHardSigmoid, kHardSigmoidKeras2, kSoftsign };

// The names of flax_rnn.activations, in the order of the enumeration.
constexpr std::string_view kActivations[] = {
    "linear", "tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2", "softsign",
};

// exp(x) = scale (1 + rest), for x within -87 to 87.
struct Exponential {
  Vector scale, rest;
};

// The polynomial is the one of its degree that is off by least, 3e-8 of 2^r - 1.
inline Exponential Split(Vector x) {
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integers, in the last bits
  x = x < -87.0f ? Vector{} - 87.0f : x;
  x = x > 87.0f ? Vector{} + 87.0f : x;
  const Vector shifted = x * 1.44269502f + round;
  const Vector r = x * 1.92596299e-8f + (x * 1.44269502f - (shifted - round));  // by log2(e) in two parts
  Vector p = r * 1.5353362e-4f + 1.3398875e-3f;
  p = p * r + 9.6184369e-3f;
  p = p * r + 5.5503324e-2f;
  p = p * r + 0.24022648f;
  p = p * r + 0.69314718f;
  const Integers bits = ((Integers)shifted << 23) + 0x3f800000;
  return {(Vector)bits, p * r};
}

inline Vector Sigmoid(Vector x) {
  const Exponential e = Split(-x);
  return Reciprocal((1.0f + e.scale) + e.scale * e.rest);
}

inline Vector Tanh(Vector x) {
  const Vector magnitude = x < 0.0f ? -x : x;
  const Exponential e = Split(magnitude * -2.0f);
  const Vector less_one = e.scale * e.rest + (e.scale - 1.0f);
  const Vector result = -less_one * Reciprocal(less_one + 2.0f);
  return x < 0.0f ? -result : result;
}

inline Vector Clip(Vector x) {
  x = x < 0.0f ? Vector{} : x;
  return x > 1.0f ? Vector{} + 1.0f : x;
}

inline Vector Activate(Activation activation, Vector x) {
  switch (activation) {
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kSigmoid:
      return Sigmoid(x);
    case Activation::kRelu:
      return x < 0.0f ? Vector{} : x;
    case Activation::kHardSigmoid:
      return Clip(x * (1.0f / 6) + 0.5f);
    case Activation::kHardSigmoidKeras2:
      return Clip(x * 0.2f + 0.5f);
    case Activation::kSoftsign:
      return x / (1.0f + (x < 0.0f ? -x : x));
    case Activation::kLinear:
      break;
  }
  return x;
}

// to + the gradient of the argument, from the value y and its gradient d. Where y is constant that is 0 for any d, an
// infinite one, too, as it is with jax.nn.
inline Vector Gradient(Activation activation, Vector y, Vector d, Vector to = Vector{}) {
  switch (activation) {
    case Activation::kTanh:
      return to + d * (1.0f - y * y);
    case Activation::kSigmoid:
      return to + d * (y * (1.0f - y));
    case Activation::kRelu:
      return y > 0.0f ? to + d : to;
    case Activation::kHardSigmoid:
      return (y > 0.0f) & (y < 1.0f) ? to + d * (1.0f / 6) : to;
    case Activation::kHardSigmoidKeras2:
      return (y > 0.0f) & (y < 1.0f) ? to + d * 0.2f : to;
    case Activation::kSoftsign: {
      const Vector rest = 1.0f - (y < 0.0f ? -y : y);
      return to + d * (rest * rest);
    }
    case Activation::kLinear:
      break;
  }
  return to + d;
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_ACTIVATIONS_H_
