// The state after a step, from each thread that has made a part of it to the shared memory of all blocks.

#ifndef FLAX_RNN_CUDA_EXCHANGE_CUH_
#define FLAX_RNN_CUDA_EXCHANGE_CUH_

#include "shape.cuh"

namespace flax_rnn {

// The bits of a warp's units of one row in order, 16 bytes of them: by every step twice as many lanes know of each
// other.
FLAX_RNN_DEVICE Words Gather(u32 bits, int g, u16) {
  u32 other = ShuffleXor(bits, 4);
  const u32 pair = g & 1 ? other | bits << 16 : bits | other << 16;
  other = ShuffleXor(pair, 8);
  const u32 low = g & 2 ? other : pair, high = g & 2 ? pair : other;
  const u32 other_low = ShuffleXor(low, 16), other_high = ShuffleXor(high, 16);
  return g & 4 ? Words{{other_low, other_high, low, high}} : Words{{low, high, other_low, other_high}};
}
FLAX_RNN_DEVICE Words Gather(u32 bits, int g, float) {
  const u32 other = ShuffleXor(bits, 4);
  const u32 low = g & 1 ? other : bits, high = g & 1 ? bits : other;
  const u32 other_low = ShuffleXor(low, 8), other_high = ShuffleXor(high, 8);
  return g & 2 ? Words{{other_low, other_high, low, high}} : Words{{low, high, other_low, other_high}};
}

// To the state `to`, of one copy, what the thread owns under the number `own`.
template <class S>
FLAX_RNN_DEVICE void Share(u32* to, const Place<S>& place, int own, typename S::E value) {
  typedef typename S::E E;
  u32* row = to + place.OwnRow(own) * S::kStride;
  const int unit = place.Unit(own);
  if constexpr (S::C == 1) {
    Put(row, unit, value);
  } else {
    constexpr int kLanes = Element<E>::kPerChunk;
    const Words words = Gather(Operand(value), place.g, E());
    u32* chunk = row + unit / kLanes * 4;
    // The lanes that know the same 16 bytes have blocks of their own to tell.
#pragma unroll
    for (int first = 0; first < S::C; first += kLanes) {
      const int rank = first + place.g % kLanes;
      if (rank < S::C) StoreRemote<S::C>(chunk, rank, words);
    }
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_EXCHANGE_CUH_
