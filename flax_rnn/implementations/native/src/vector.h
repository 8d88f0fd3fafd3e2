// Vectors of floats in the compiler's own notation, and the activations of recurrent layers on them.
//
// exp is 2^n exp(r) with x = n log 2 + r and a polynomial in r; tanh and sigmoid follow from it, tanh by way of exp - 1
// so that small arguments keep their digits.

#ifndef FLAX_RNN_VECTOR_H_
#define FLAX_RNN_VECTOR_H_

#include <cstdint>
#include <cstring>

namespace flax_rnn {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRows = 6;  // 6 x 4 sums and 5 operands fit into 32 registers
#else
#if defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kRows = 2;  // 2 x 4 sums and 5 operands fit into 16 registers
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using Integers = int32_t __attribute__((vector_size(kLanes * sizeof(float))));

inline Vector Load(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline void Store(float* to, Vector value) { std::memcpy(to, &value, sizeof(value)); }

// The first `count` lanes; the others are 0, or stay as they are.
inline Vector Load(const float* from, int64_t count) {
  if (count >= kLanes) return Load(from);
  Vector value = {};
  std::memcpy(&value, from, count * sizeof(float));
  return value;
}

inline void Store(float* to, Vector value, int64_t count) {
  if (count >= kLanes) return Store(to, value);
  std::memcpy(to, &value, count * sizeof(float));
}

// exp(x) = scale (1 + rest), for x of at most 88.
struct Exponential {
  Vector scale, rest;
};

inline Exponential Split(Vector x) {
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integers, in the last bits
  x = x < -87.0f ? Vector{} - 87.0f : x;
  x = x > 88.0f ? Vector{} + 88.0f : x;
  const Vector shifted = x * 1.44269504f + round;
  const Vector n = shifted - round;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  const Integers bits = ((Integers)shifted << 23) + 0x3f800000;
  return {(Vector)bits, p * r * r + r};
}

inline Vector Sigmoid(Vector x) {
  const Exponential e = Split(-x);
  return 1.0f / (1.0f + e.scale + e.scale * e.rest);
}

inline Vector Tanh(Vector x) {
  const Vector magnitude = x < 0.0f ? -x : x;
  const Exponential e = Split(magnitude * -2.0f);
  const Vector less_one = e.scale * e.rest + (e.scale - 1.0f);
  const Vector result = -less_one / (less_one + 2.0f);
  return x < 0.0f ? -result : result;
}

// In the order of flax_rnn.native.operands.ACTIVATIONS.
enum class Activation : int64_t { kLinear, kTanh, kSigmoid, kRelu, kHardSigmoid, kHardSigmoidKeras2, kSoftsign };

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

// The derivative, from the value.
inline Vector Slope(Activation activation, Vector y) {
  const Vector one = Vector{} + 1.0f, zero = {};
  switch (activation) {
    case Activation::kTanh:
      return 1.0f - y * y;
    case Activation::kSigmoid:
      return y * (1.0f - y);
    case Activation::kRelu:
      return y > 0.0f ? one : zero;
    case Activation::kHardSigmoid:
      return y > 0.0f ? (y < 1.0f ? one * (1.0f / 6) : zero) : zero;
    case Activation::kHardSigmoidKeras2:
      return y > 0.0f ? (y < 1.0f ? one * 0.2f : zero) : zero;
    case Activation::kSoftsign: {
      const Vector rest = 1.0f - (y < 0.0f ? -y : y);
      return rest * rest;
    }
    case Activation::kLinear:
      break;
  }
  return one;
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_VECTOR_H_
