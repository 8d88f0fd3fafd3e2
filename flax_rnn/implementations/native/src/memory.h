// Memory for packed matrices and the like, which is kept for the next call: to have megabytes from the system, page by
// page, costs as much as a short layer.

#ifndef FLAX_RNN_MEMORY_H_
#define FLAX_RNN_MEMORY_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace flax_rnn {

class Memory {
 public:
  // The vectors of an array lie each in one line of the cache.
  static constexpr std::align_val_t kLine{64};

  struct Free {
    void operator()(float* values) const { ::operator delete[](values, kLine); }
  };

  struct Block {
    std::unique_ptr<float[], Free> values;
    int64_t size = 0;
  };

  // A block of at least so many floats, with anything in them.
  static Block Take(int64_t size) {
    if (size >= kWorthKeeping) {
      Kept& kept = All();
      std::lock_guard<std::mutex> lock(kept.mutex);
      for (size_t i = kept.blocks.size(); i-- > 0;)  // the last one is still in the cache
        if (kept.blocks[i].size >= size && kept.blocks[i].size <= 2 * size) {
          Block block = std::move(kept.blocks[i]);
          kept.blocks.erase(kept.blocks.begin() + i);
          kept.size -= block.size;
          return block;
        }
    }
    return {std::unique_ptr<float[], Free>(new (kLine) float[size]), size};
  }

  static void GiveBack(Block block) {
    if (!block.values || block.size < kWorthKeeping || block.size > kMost) return;
    Kept& kept = All();
    std::lock_guard<std::mutex> lock(kept.mutex);
    if (kept.blocks.size() == kept.blocks.capacity()) return;
    while (kept.size + block.size > kMost) {
      kept.size -= kept.blocks.front().size;
      kept.blocks.erase(kept.blocks.begin());
    }
    kept.size += block.size;
    kept.blocks.push_back(std::move(block));
  }

 private:
  struct Kept {
    Kept() { blocks.reserve(64); }

    std::mutex mutex;
    std::vector<Block> blocks;  // the last given back is the last
    int64_t size = 0;
  };

  static Kept& All() {
    static Kept* const kept = new Kept();  // threads may be at work until the process ends
    return *kept;
  }

#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kMost = 0;  // what is beyond the end of an array is somebody else's
#else
  static constexpr int64_t kMost = 1 << 24;  // 64 MB
#endif
  static constexpr int64_t kWorthKeeping = 1 << 13;
};

// So many floats, with anything in them.
class Buffer {
 public:
  explicit Buffer(int64_t size) : block_(Memory::Take(size)) {}
  Buffer(Buffer&&) noexcept = default;
  ~Buffer() { Memory::GiveBack(std::move(block_)); }

  float* data() { return block_.values.get(); }
  const float* data() const { return block_.values.get(); }

 private:
  Memory::Block block_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_MEMORY_H_
