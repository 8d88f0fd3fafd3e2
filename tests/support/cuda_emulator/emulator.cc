// Runs the threads of a grid, one cluster after the other, as fibres of the calling thread.

#include <stdexcept>
#include <string>

#include "cluster.h"

namespace flax_rnn::emulator {

thread_local CudaThread* CudaThread::running = nullptr;
thread_local Cluster* Cluster::running = nullptr;

namespace {

thread_local std::string error;

struct Body {
  void (*function)(void*);
  void* argument;
};

void RunThread(void* body) {
  const Body& self = *static_cast<Body*>(body);
  self.function(self.argument);
  Self().stop = Stop::kEnd;
}

void Require(bool condition, const char* otherwise) {
  if (!condition) throw std::runtime_error(otherwise);
}

}  // namespace

Lane& Self() { return *CudaThread::running; }

void Wait(Stop stop) { CudaThread::running->WaitFor(stop); }

void* Remote(void* place, int rank, size_t bytes) { return Cluster::running->Remote(Self(), place, rank, bytes); }

void Send(void* to, const uint32_t (&words)[4], Count& count) { Cluster::running->Send(to, words, count); }

void Fail(const char* message) { throw std::runtime_error(message); }

int Run(const Sizes& sizes, unsigned most_threads, void (*body)(void*), void* argument) {
  try {
    Require(sizes.cluster >= 1 && sizes.cluster <= 16, "a cluster has 1 to 16 blocks");
    Require(sizes.grid % sizes.cluster == 0, "a grid is of whole clusters");
    Require(sizes.block >= kLanes && sizes.block % kLanes == 0, "a block is of whole warps");
    Require(sizes.block <= most_threads, "more threads than the kernel was compiled for");
    Require(sizes.shared <= SharedMemory::kMost, "more shared memory than a block can have");
    const Stacks stacks(sizes.cluster * sizes.block);
    Body call{body, argument};
    for (unsigned tile = 0; tile < sizes.grid / sizes.cluster; ++tile)
      Cluster(sizes, tile, stacks, RunThread, &call).Run();
    return 0;
  } catch (const std::exception& exception) {
    error = exception.what();
    return 1;
  }
}

}  // namespace flax_rnn::emulator

extern "C" const char* flax_rnn_emulator_error() { return flax_rnn::emulator::error.c_str(); }
