// The numbers that products take: bfloat16, as u16, and float, of which products take the digits of TF32.

#ifndef FLAX_RNN_CUDA_ELEMENTS_CUH_
#define FLAX_RNN_CUDA_ELEMENTS_CUH_

#include "device.cuh"

namespace flax_rnn {

template <class E>
struct Element {
  static constexpr int kPerWord = 4 / sizeof(E);
  static constexpr int kDepth = 8 * kPerWord;  // of one product of a warp
  static constexpr int kPerChunk = 16 / sizeof(E);
};

FLAX_RNN_DEVICE float Wide(u16 x) { return Float((u32)x << 16); }
FLAX_RNN_DEVICE float Wide(float x) { return x; }

// The bits of one, and what they stand for. To make a number of what is on its way from memory waits for it.
FLAX_RNN_DEVICE u32 Raw(u16 x) { return x; }
FLAX_RNN_DEVICE u32 Raw(float x) { return Bits(x); }
FLAX_RNN_DEVICE float FromRaw(u32 x, u16) { return Float(x << 16); }
FLAX_RNN_DEVICE float FromRaw(u32 x, float) { return Float(x); }

FLAX_RNN_DEVICE u16 Narrow(float x, u16) { return Bfloat16(x); }
FLAX_RNN_DEVICE float Narrow(float x, float) { return x; }

// The bits that a product takes.
FLAX_RNN_DEVICE u32 Operand(u16 x) { return x; }
FLAX_RNN_DEVICE u32 Operand(float x) { return Tf32(x); }

// Products of kPerWord of them, as the next product takes them.
FLAX_RNN_DEVICE u32 TimesWord(u32 a, u32 b, u16) { return TimesBfloat16(a, b); }
FLAX_RNN_DEVICE u32 TimesWord(u32 a, u32 b, float) { return Tf32(Float(a) * Float(b)); }

// Into a row of them.
FLAX_RNN_DEVICE void Put(u32* row, int index, u16 x) { reinterpret_cast<u16*>(row)[index] = x; }
FLAX_RNN_DEVICE void Put(u32* row, int index, float x) { row[index] = Operand(x); }

// kPerWord elements one after the other, as a product takes them.
FLAX_RNN_DEVICE u32 OperandWord(const u16* from, long long stride) { return from[0] | (u32)from[stride] << 16; }
FLAX_RNN_DEVICE u32 OperandWord(const float* from, long long) { return Operand(from[0]); }

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_ELEMENTS_CUH_
