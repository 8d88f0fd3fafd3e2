// What the 32 threads of a warp do as one: mma.sync and shuffles.

#ifndef FLAX_RNN_CUDA_EMULATOR_WARP_H_
#define FLAX_RNN_CUDA_EMULATOR_WARP_H_

#include <cstring>

#include "lane.h"

namespace flax_rnn::emulator {

constexpr int kLanes = 32;

// Which number of a word of factors: bfloat16 has two of them, TF32 one, whose last 13 bits are not looked at.
inline float Factor(uint32_t word, int packed, int index) {
  const uint32_t bits = packed == 1 ? word & 0xffffe000u : index == 0 ? word << 16 : word & 0xffff0000u;
  float factor;
  std::memcpy(&factor, &bits, sizeof factor);
  return factor;
}

// sums += a b, with a of 16 rows and b of 8 columns, whose numbers are spread over the lanes as "Matrix Fragments for
// mma.m16n8k16" and "mma.m16n8k8" of the PTX ISA have them. Products of the factors are exact in float32, in which
// they are added; a GPU adds them in an order of its own, and cuts off digits that do not fit.
template <int kPacked, typename Lanes>
void MultiplyOf(Lanes& lanes) {
  constexpr int kDepth = 8 * kPacked;
  float a[16][kDepth], b[kDepth][8], products[16][8] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, place = lane % 4;
    for (int index = 0; index < kPacked; ++index) {
      for (int r = 0; r < 4; ++r)
        a[group + r % 2 * 8][(place + r / 2 * 4) * kPacked + index] = Factor(lanes[lane].a[r], kPacked, index);
      for (int r = 0; r < 2; ++r)
        b[(place + r * 4) * kPacked + index][group] = Factor(lanes[lane].b[r], kPacked, index);
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < kDepth; ++k)
      for (int column = 0; column < 8; ++column) products[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int r = 0; r < 4; ++r) lanes[lane].sums[r] += products[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
}

template <typename Lanes>
void ShuffleOf(Lanes& lanes) {
  uint32_t values[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = lanes[lane].value;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane].value = values[(lane ^ lanes[lane].partner) % kLanes];
}

}  // namespace flax_rnn::emulator

#endif  // FLAX_RNN_CUDA_EMULATOR_WARP_H_
