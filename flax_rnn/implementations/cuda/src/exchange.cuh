// What the blocks of a cluster tell each other once a step.

#ifndef FLAX_RNN_CUDA_EXCHANGE_CUH_
#define FLAX_RNN_CUDA_EXCHANGE_CUH_

#include "shape.cuh"

namespace flax_rnn {

// What comes to a block from all blocks of its cluster, kBytes of it in each exchange, into one of two places in turn.
// Nobody sends for an exchange before all of the one before it has come to him, and so everybody has read what was in
// that place two exchanges ago; therefore no other barrier is needed. A block alone has the barrier of its threads.
template <int C, int kBytes>
struct Exchange {
  u64* counts;

  FLAX_RNN_DEVICE explicit Exchange(u32* shared) : counts(reinterpret_cast<u64*>(shared)) {}

  // Ahead of the first, and of a barrier of the cluster.
  FLAX_RNN_DEVICE void Open() const {
    if (C == 1 || Thread()) return;
    for (int i = 0; i < 2; i++) {
      InitCount(counts + i);
      Expect(counts + i, kBytes);
    }
  }

  FLAX_RNN_DEVICE void Tell(void* place, int rank, Words words, int number) const {
    Send<C>(place, rank, words, counts + (number & 1));
  }

  // Until the exchange of this number is done, with which all threads begin at 0.
  FLAX_RNN_DEVICE void Await(int number) const {
    if constexpr (C == 1) {
      SyncBlock();
    } else {
      AwaitCount(counts + (number & 1), number >> 1 & 1);
      if (!Thread()) Expect(counts + (number & 1), kBytes);
    }
  }
};

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

// To the state `to` what the thread owns under the number `own`.
template <class S, class Exchange>
FLAX_RNN_DEVICE void Share(u32* to, const Place<S>& place, int own, typename S::E value, const Exchange& exchange,
                           int number) {
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
      if (rank < S::C) exchange.Tell(chunk, rank, words, number);
    }
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_EXCHANGE_CUH_
