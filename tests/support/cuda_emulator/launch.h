// Launches as cuLaunchKernel has them: a kernel and pointers to its arguments.

#ifndef FLAX_RNN_CUDA_EMULATOR_LAUNCH_H_
#define FLAX_RNN_CUDA_EMULATOR_LAUNCH_H_

#include <utility>

#include "lane.h"

namespace flax_rnn::emulator {

template <typename... Arguments, size_t... Index>
void Call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<Index...>) {
  kernel(*static_cast<Arguments*>(arguments[Index])...);
}

template <typename... Arguments>
int Launch(void (*kernel)(Arguments...), unsigned most_threads, void** arguments, const Sizes& sizes) {
  auto call = [&] { Call(kernel, arguments, std::index_sequence_for<Arguments...>()); };
  return Run(sizes, most_threads, [](void* body) { (*static_cast<decltype(call)*>(body))(); }, &call);
}

}  // namespace flax_rnn::emulator

// Behind the definition of a kernel: exports `<kernel>_launch`.
#define FLAX_RNN_EXPORT(kernel)                                                                                      \
  extern "C" FLAX_RNN_VISIBLE int kernel##_launch(void** arguments, unsigned grid, unsigned cluster, unsigned block, \
                                                  unsigned shared) {                                                 \
    return flax_rnn::emulator::Launch(kernel, kMostThreads, arguments, {grid, cluster, block, shared});              \
  }

#endif  // FLAX_RNN_CUDA_EMULATOR_LAUNCH_H_
