// What the kernels need of a GPU, on a CPU: it takes the place of the file of this name beside them.

#ifndef FLAX_RNN_DEVICE_CUH_
#define FLAX_RNN_DEVICE_CUH_

#include <cmath>
#include <cstring>

#include "lane.h"
#include "launch.h"

#define FLAX_RNN_DEVICE inline

// A kernel is an ordinary function, to which FLAX_RNN_EXPORT adds one that launches it.
#define FLAX_RNN_KERNEL(...)                     \
  constexpr unsigned kMostThreads = __VA_ARGS__; \
  static void

namespace flax_rnn {

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

struct alignas(16) Words {
  u32 at[4];
};

FLAX_RNN_DEVICE int Thread() { return emulator::Self().thread; }

template <int C>
FLAX_RNN_DEVICE int Rank() {
  return emulator::SelfInClusterOf(C).rank;
}

template <int C>
FLAX_RNN_DEVICE int Tile() {
  return emulator::SelfInClusterOf(C).tile;
}

FLAX_RNN_DEVICE void SyncBlock() { emulator::Wait(emulator::Stop::kBlock); }

template <int C>
FLAX_RNN_DEVICE void SyncCluster() {
  emulator::SelfInClusterOf(C);
  emulator::Wait(C == 1 ? emulator::Stop::kBlock : emulator::Stop::kCluster);
}

FLAX_RNN_DEVICE u32* SharedMemory() { return emulator::Self().shared; }

FLAX_RNN_DEVICE u32 ShuffleXor(u32 value, int lanes) {
  emulator::Lane& self = emulator::Self();
  self.value = value;
  self.partner = lanes;
  emulator::Wait(emulator::Stop::kShuffle);
  return self.value;
}

FLAX_RNN_DEVICE void Multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], emulator::Stop stop) {
  emulator::Lane& self = emulator::Self();
  self.sums = sums;
  self.a = a;
  self.b = b;
  emulator::Wait(stop);
}

FLAX_RNN_DEVICE void Multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], u16) {
  Multiply(sums, a, b, emulator::Stop::kMultiplyBfloat16);
}

FLAX_RNN_DEVICE void Multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], float) {
  Multiply(sums, a, b, emulator::Stop::kMultiplyTf32);
}

template <int C>
FLAX_RNN_DEVICE void StoreRemote(void* place, int rank, Words value) {
  emulator::SelfInClusterOf(C);
  std::memcpy(emulator::Remote(place, C == 1 ? 0 : rank, sizeof value), &value, sizeof value);
}

FLAX_RNN_DEVICE u16 Bfloat16(float x) {
  u32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  return std::isnan(x) ? 0x7fff : static_cast<u16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
FLAX_RNN_DEVICE u32 Tf32(float x) {
  u32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  return std::isnan(x) ? 0x7fffffff : (bits + 0x1000) & 0xffffe000u;
}

FLAX_RNN_DEVICE float Tanh(float x) { return std::tanh(x); }

FLAX_RNN_DEVICE u32 Bits(float x) {
  u32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

FLAX_RNN_DEVICE float Float(u32 bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_DEVICE_CUH_
