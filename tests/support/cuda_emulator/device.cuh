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
typedef unsigned long long u64;

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

FLAX_RNN_DEVICE emulator::Count& CountAt(u64* place, int rank, bool made = true) {
  auto& count = *static_cast<emulator::Count*>(emulator::Remote(place, rank, sizeof *place));
  if ((count.made == emulator::Count::kMade) != made)
    emulator::Fail(made ? "a count of bytes that was not made" : "a count of bytes is made twice");
  return count;
}

FLAX_RNN_DEVICE void InitCount(u64* place) {
  CountAt(place, emulator::Self().rank, false) = {emulator::Count::kMade, 0, 0};
}

FLAX_RNN_DEVICE void Expect(u64* place, u32 bytes) {
  emulator::Count& count = CountAt(place, emulator::Self().rank);
  if (count.to_come) emulator::Fail("bytes are expected while others are to come");
  count.to_come = bytes;
}

FLAX_RNN_DEVICE void AwaitCount(u64* place, int odd) {
  emulator::Lane& self = emulator::Self();
  self.count = &CountAt(place, self.rank);
  self.odd = odd;
  emulator::Wait(emulator::Stop::kCount);
}

template <int C>
FLAX_RNN_DEVICE void Send(void* place, int rank, Words value, u64* count) {
  emulator::SelfInClusterOf(C);
  void* const to = emulator::Remote(place, C == 1 ? 0 : rank, sizeof value);
  if (C == 1) {
    std::memcpy(to, &value, sizeof value);
  } else {
    emulator::Send(to, value.at, CountAt(count, rank));
  }
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

FLAX_RNN_DEVICE u32 TimesBfloat16(u32 a, u32 b) {
  const auto times = [](u32 a, u32 b) {
    float x, y;
    std::memcpy(&x, &a, sizeof x);
    std::memcpy(&y, &b, sizeof y);
    return Bfloat16(x * y);
  };
  return times(a << 16, b << 16) | (u32)times(a & 0xffff0000u, b & 0xffff0000u) << 16;
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
