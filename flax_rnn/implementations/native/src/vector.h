// Vectors of floats in the compiler's own notation.

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

}  // namespace flax_rnn

#endif  // FLAX_RNN_VECTOR_H_
