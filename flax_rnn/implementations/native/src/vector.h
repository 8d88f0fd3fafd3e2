// Vectors of floats in the compiler's own notation.

#ifndef FLAX_RNN_VECTOR_H_
#define FLAX_RNN_VECTOR_H_

#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace flax_rnn {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// How many sums fit into the registers, beside their operands: of 32, or of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileSums = 24;
#else
constexpr int kTileSums = 12;
#endif

// The rows of a tile with so many columns.
template <int N>
constexpr int kRows = kTileSums / N;

// The columns of a tile that may have any number: the fewer operands there are for so many sums, the better.
constexpr int kWide = kTileSums == 24 ? 4 : 2;

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

// 1 / x, for x that have a normal one. Where a division takes as long as a dozen other operations, an estimate of 14
// digits and one step of Newton's method do.
inline Vector Reciprocal(Vector x) {
#if defined(__AVX512F__)
  const Vector estimate = _mm512_maskz_rcp14_ps(0xffff, x);
  return estimate + estimate * (1.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_VECTOR_H_
