// A CUDA thread as its own code sees it, and where it waits for others. What kernels are compiled with: it includes
// little, since there are many of them.

#ifndef FLAX_RNN_CUDA_EMULATOR_LANE_H_
#define FLAX_RNN_CUDA_EMULATOR_LANE_H_

#include <cstddef>
#include <cstdint>

namespace flax_rnn::emulator {

// Where a thread waits until all others of its warp, its block or its cluster have come to the same.
// None is where it goes on, and a count is of bytes that come, for which it waits whatever others do.
enum class Stop { kNone, kMultiplyBfloat16, kMultiplyTf32, kShuffle, kBlock, kCluster, kCount, kEnd };

// An mbarrier, in 8 bytes of shared memory. One thread says how many bytes are expected. A GPU also counts those that
// come ahead of that; here they are an error, which is how it shows that too few were expected.
struct Count {
  static constexpr uint16_t kMade = 0x5a5a;

  uint16_t made;     // kMade, once it is there
  uint16_t odd;      // whether as many bytes as were expected have come an odd number of times
  uint32_t to_come;  // of those expected
};
static_assert(sizeof(Count) == sizeof(uint64_t), "as a kernel declares it");

// Pointers are to what the thread has on its own stack, which stays while it waits.
struct Lane {
  int thread = 0;  // in its block
  int rank = 0;    // of the block in its cluster
  int tile = 0;    // of the cluster in the grid
  int blocks = 1;  // of a cluster
  uint32_t* shared = nullptr;
  Stop stop = Stop::kNone;

  float* sums = nullptr;
  const uint32_t *a = nullptr, *b = nullptr;  // factors

  uint32_t value = 0;  // to be exchanged with that of the lane whose number differs in the bits of `partner`
  int partner = 0;

  const Count* count = nullptr;  // that the thread waits for
  int odd = 0;                   // as long as this is what it is

  bool Ready() const { return stop == Stop::kNone || (stop == Stop::kCount && count->odd != odd); }
};

// The thread whose code is running.
Lane& Self();

// Returns when the threads that it concerns have come.
void Wait(Stop stop);

// The same bytes of another block's shared memory; fails where it has none there, or has ended.
void* Remote(void* place, int rank, size_t bytes);

// Writes words at once or when all that are expected have come, as a GPU may, and counts their bytes.
void Send(void* to, const uint32_t (&words)[4], Count& count);

// Ends the launch with an error.
[[noreturn]] void Fail(const char* message);

// What a kernel was compiled for has to be what it is launched with.
inline Lane& SelfInClusterOf(int blocks) {
  Lane& self = Self();
  if (self.blocks != blocks) Fail("the kernel was compiled for another size of cluster");
  return self;
}

struct Sizes {
  unsigned grid, cluster, block, shared;  // blocks, blocks, threads, bytes
};

// Calls body(argument) as every thread of a grid; 0, or 1 where `flax_rnn_emulator_error` has a message.
int Run(const Sizes& sizes, unsigned most_threads, void (*body)(void*), void* argument);

}  // namespace flax_rnn::emulator

// The rest of a library is hidden, since many of them have the same names.
#define FLAX_RNN_VISIBLE __attribute__((visibility("default")))

// Of the last launch of the calling thread.
extern "C" FLAX_RNN_VISIBLE const char* flax_rnn_emulator_error();

#endif  // FLAX_RNN_CUDA_EMULATOR_LANE_H_
