// The threads of a cluster: of warps, and these of blocks. At each level the first part that can go on does, as far as
// it comes, until all have to wait for the same. What runs ahead where one should wait therefore runs as far as it can.

#ifndef FLAX_RNN_CUDA_EMULATOR_CLUSTER_H_
#define FLAX_RNN_CUDA_EMULATOR_CLUSTER_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fibres.h"
#include "shared_memory.h"
#include "warp.h"

namespace flax_rnn::emulator {

// The order in which parts run is another each time, and the same in each launch.
using Random = std::minstd_rand;

// What goes on when all of its parts wait for the same, or one of them has the bytes that it waits for.
template <typename Part>
class Parts {
 public:
  bool Ready() const {
    return stop == Stop::kNone || (stop == Stop::kCount && std::any_of(parts.begin(), parts.end(),
                                                                       [](const Part& part) { return part.Ready(); }));
  }

  Stop stop = Stop::kNone;
  std::deque<Part> parts;

 protected:
  // Until none can go on; then `stop` is what all wait for, or a count if that is what some do.
  void RunParts(Random& random, const char* parts_of) {
    static constexpr const char* kNames[] = {
        "",
        "a product",
        "a product",
        "a shuffle",
        "a barrier of the block",
        "a barrier of the cluster",
        "bytes to come",
        "nothing: they ended",
    };
    if (stop != Stop::kCount)
      for (Part& part : parts) part.stop = Stop::kNone;
    const size_t count = parts.size(), first = random() % count;
    const bool backward = random() % 2;
    bool counting = false;  // whether some wait for bytes, which any other may have sent
    for (size_t i = 0; i < count;) {
      const size_t index = (first + i) % count;
      Part& part = parts[backward ? count - 1 - index : index];
      const bool ready = part.Ready();
      if (ready) part.Run(random);
      counting = counting || part.stop == Stop::kCount;
      i = ready && counting ? 0 : i + 1;
    }
    stop = parts[0].stop;
    for (const Part& part : parts)
      if (part.stop == Stop::kCount) stop = part.stop;
    if (stop == Stop::kCount) return;
    for (const Part& part : parts)
      if (part.stop != stop)
        throw std::runtime_error(std::string("deadlock: some ") + parts_of + " wait for " +
                                 kNames[static_cast<int>(stop)] + ", others for " +
                                 kNames[static_cast<int>(part.stop)]);
  }
};

class CudaThread : public Lane {
 public:
  void Run(Random&) {
    running = this;
    fibre_.Resume();
  }

  void Start(Fibre::Function body, void* argument, char* stack) { fibre_.Start(body, argument, stack); }
  void WaitFor(Stop what) {
    stop = what;
    fibre_.Suspend();
  }

  static thread_local CudaThread* running;

 private:
  Fibre fibre_;
};

class Warp : public Parts<CudaThread> {
 public:
  Warp() { parts.resize(kLanes); }

  void Run(Random& random) {
    for (;;) {
      RunParts(random, "threads of a warp");
      switch (stop) {
        case Stop::kMultiplyBfloat16:
          MultiplyOf<2>(parts);
          break;
        case Stop::kMultiplyTf32:
          MultiplyOf<1>(parts);
          break;
        case Stop::kShuffle:
          ShuffleOf(parts);
          break;
        default:
          return;
      }
    }
  }
};

class Block : public Parts<Warp> {
 public:
  Block(unsigned threads, unsigned bytes) : shared(bytes) { parts.resize(threads / kLanes); }

  void Run(Random& random) {
    begun = true;
    do RunParts(random, "warps of a block");
    while (stop == Stop::kBlock);
    if (!shared.intact()) throw std::runtime_error("a store behind the end of the shared memory");
  }

  SharedMemory shared;
  bool begun = false;
};

class Cluster : Parts<Block> {
 public:
  Cluster(const Sizes& sizes, int tile, const Stacks& stacks, Fibre::Function body, void* argument) {
    for (unsigned rank = 0; rank < sizes.cluster; ++rank) {
      Block& block = parts.emplace_back(sizes.block, sizes.shared);
      for (unsigned i = 0; i < sizes.block; ++i) {
        CudaThread& thread = block.parts[i / kLanes].parts[i % kLanes];
        thread.thread = i;
        thread.rank = rank;
        thread.tile = tile;
        thread.blocks = sizes.cluster;
        thread.shared = block.shared.begin();
        thread.Start(body, argument, stacks[rank * sizes.block + i]);
      }
    }
  }

  void Run() {
    running = this;
    do RunParts(random_, "blocks of a cluster");
    while (stop == Stop::kCluster);
    if (stop == Stop::kCount) throw std::runtime_error("deadlock: some wait for bytes that nobody sends");
  }

  void* Remote(const Lane& from, void* place, int rank, size_t bytes) {
    if (rank < 0 || rank >= from.blocks) throw std::runtime_error("a store to a block that the cluster does not have");
    const int64_t offset = parts[from.rank].shared.OffsetOf(place, bytes);
    if (offset < 0) throw std::runtime_error("a store that is not to aligned bytes within the shared memory");
    Block& block = parts[rank];
    if (!block.begun) throw std::runtime_error("a store to the shared memory of a block that has not begun");
    if (block.stop == Stop::kEnd) throw std::runtime_error("a store to the shared memory of a block that has ended");
    return reinterpret_cast<char*>(block.shared.begin()) + offset;
  }

  // Half of what is sent comes at once, and half when all that is expected does.
  void Send(void* to, const uint32_t (&words)[4], Count& count) {
    if (count.to_come < sizeof words) throw std::runtime_error("bytes come that are not expected");
    std::vector<Sent>& late = late_[&count];
    const Sent sent = {to, {words[0], words[1], words[2], words[3]}};
    if (random_() % 2) {
      sent.Arrive();
    } else {
      late.push_back(sent);
    }
    count.to_come -= sizeof words;
    if (count.to_come) return;
    for (const Sent& each : late) each.Arrive();
    late.clear();
    count.odd = !count.odd;
  }

  static thread_local Cluster* running;

 private:
  struct Sent {
    void* to;
    uint32_t words[4];

    void Arrive() const { std::memcpy(to, words, sizeof words); }
  };

  std::map<Count*, std::vector<Sent>> late_;
  Random random_;
};

}  // namespace flax_rnn::emulator

#endif  // FLAX_RNN_CUDA_EMULATOR_CLUSTER_H_
