// The dynamic shared memory of a block.

#ifndef FLAX_RNN_CUDA_EMULATOR_SHARED_MEMORY_H_
#define FLAX_RNN_CUDA_EMULATOR_SHARED_MEMORY_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flax_rnn::emulator {

// What nobody has written is NaN, as float32 and as a pair of bfloat16; so is a margin behind it, which has to stay.
class SharedMemory {
 public:
  static constexpr size_t kMost = 227 << 10;  // bytes of a block, of an H100 and a B200

  explicit SharedMemory(size_t bytes) : bytes_(bytes), quads_(bytes / sizeof(Quad) + kMargin, Quad{}) {}

  uint32_t* begin() { return quads_[0].words; }

  // How far `place` is behind the beginning, or -1 where no so many aligned bytes are there.
  int64_t OffsetOf(const void* place, size_t bytes) {
    const int64_t offset = static_cast<const char*>(place) - reinterpret_cast<char*>(begin());
    const bool within = offset >= 0 && offset + bytes <= bytes_ && offset % bytes == 0;
    return within ? offset : -1;
  }

  bool intact() {
    return std::all_of(begin() + (bytes_ + 3) / 4, begin() + quads_.size() * 4,
                       [](uint32_t word) { return word == kPoison; });
  }

 private:
  static constexpr uint32_t kPoison = 0x7fc07fc0;
  static constexpr size_t kMargin = 256;  // quads

  struct alignas(16) Quad {
    uint32_t words[4] = {kPoison, kPoison, kPoison, kPoison};
  };

  size_t bytes_;
  std::vector<Quad> quads_;
};

}  // namespace flax_rnn::emulator

#endif  // FLAX_RNN_CUDA_EMULATOR_SHARED_MEMORY_H_
