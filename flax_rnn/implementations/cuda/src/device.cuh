// What the kernels take of the device, each in a function; the only file with its instructions. Tests have another one
// in its place that runs the kernels on a CPU.

#ifndef FLAX_RNN_CUDA_DEVICE_CUH_
#define FLAX_RNN_CUDA_DEVICE_CUH_

#define FLAX_RNN_DEVICE __device__ __forceinline__
#define FLAX_RNN_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
#define FLAX_RNN_EXPORT(symbol)

namespace flax_rnn {

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(16) Words {
  u32 at[4];
};

FLAX_RNN_DEVICE int Thread() { return threadIdx.x; }

// A cluster has C blocks, which may write into each other's shared memory.
template <int C>
FLAX_RNN_DEVICE int Rank() {
  if (C == 1) return 0;
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

template <int C>
FLAX_RNN_DEVICE int Tile() {
  return blockIdx.x / C;
}

FLAX_RNN_DEVICE void SyncBlock() { __syncthreads(); }

// What a thread of the cluster wrote ahead of it, also into other blocks, all threads see behind it. It waits for all
// stores to memory, too, and forgets what is cached of it: a step is no place for it.
template <int C>
FLAX_RNN_DEVICE void SyncCluster() {
  if constexpr (C == 1) {
    __syncthreads();
  } else {
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n"
        "barrier.cluster.wait.acquire.aligned;" ::
            : "memory");
  }
}

extern __shared__ u32 shared_memory[];
FLAX_RNN_DEVICE u32* SharedMemory() { return shared_memory; }

FLAX_RNN_DEVICE u32 ShuffleXor(u32 value, int lanes) { return __shfl_xor_sync(0xffffffffu, value, lanes); }

FLAX_RNN_DEVICE u32 Bits(float x) { return __float_as_uint(x); }
FLAX_RNN_DEVICE float Float(u32 bits) { return __uint_as_float(bits); }

// To the nearest bfloat16, ties to even, and to the nearest number that has the digits of TF32, ties away from zero.
FLAX_RNN_DEVICE u16 Bfloat16(float x) {
  u16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
FLAX_RNN_DEVICE u32 Tf32(float x) {
  u32 y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

// Two products in bfloat16, as the bits of pairs.
FLAX_RNN_DEVICE u32 TimesBfloat16(u32 a, u32 b) {
  u32 y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(0x80008000u));  // less zero
  return y;
}

// Bytes that blocks of a cluster send into the shared memory of this one are counted there by a barrier (mbarrier),
// which is passed when as many have come as are expected; then it counts anew. Its passes are even and odd in turn.
FLAX_RNN_DEVICE void InitCount(u64* count) {
  const u32 address = (u32)__cvta_generic_to_shared(count);
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(address)
      : "memory");
}

// By one thread, once for each pass.
FLAX_RNN_DEVICE void Expect(u64* count, u32 bytes) {
  const u32 address = (u32)__cvta_generic_to_shared(count);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
}

// Until a pass, and what was sent for it is there, from all blocks of a cluster.
FLAX_RNN_DEVICE void AwaitCount(u64* count, int odd) {
  const u32 address = (u32)__cvta_generic_to_shared(count);
  u32 done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(address), "r"(odd)
        : "memory");
  } while (!done);
}

// To the same place in the shared memory of another block, which counts it.
template <int C>
FLAX_RNN_DEVICE void Send(void* place, int rank, Words value, u64* count) {
  if constexpr (C == 1) {
    *static_cast<Words*>(place) = value;
  } else {
    const u32 own = (u32)__cvta_generic_to_shared(place), own_count = (u32)__cvta_generic_to_shared(count);
    u32 address, counter;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(own), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(own_count), "r"(rank));
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            address),
        "r"(value.at[0]), "r"(value.at[1]), "r"(value.at[2]), "r"(value.at[3]), "r"(counter)
        : "memory");
  }
}

// sums (16, 8) += a (16, k) b (k, 8), of which each of the 32 lanes of a warp holds a part: bfloat16 with k = 16.
FLAX_RNN_DEVICE void Multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], u16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for TF32, with k = 8.
FLAX_RNN_DEVICE void Multiply(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], float) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Off by 2^-11 at most, as much as TF32 is.
FLAX_RNN_DEVICE float Tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_DEVICE_CUH_
