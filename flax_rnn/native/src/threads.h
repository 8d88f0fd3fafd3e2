// Work for all threads of XLA's pool and the calling one.

#ifndef FLAX_RNN_THREADS_H_
#define FLAX_RNN_THREADS_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace flax_rnn {

// Calls function(0) to function(count - 1), each once, and returns when all have. The calling thread takes part, and
// waits for nothing but calls that have begun: it returns even if the pool has no thread to spare.
template <typename F>
void ForEach(xla::ffi::ThreadPool& pool, int64_t count, const F& function) {
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable done;
    int64_t finished = 0;
  };
  auto shared = std::make_shared<Shared>();
  // A thread that comes too late finds nothing to do, and does not touch `function`.
  auto work = [shared, count, &function] {
    for (int64_t index; (index = shared->next.fetch_add(1)) < count;) {
      function(index);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->finished == count) shared->done.notify_all();
    }
  };
  const int64_t helpers = std::min(count, pool.num_threads()) - 1;
  for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule(decltype(work)(work));
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->finished == count; });
}

// Into how many parts a batch is divided: one for each thread, if there are rows enough.
inline int64_t Parts(const xla::ffi::ThreadPool& pool, int64_t batch) {
  return std::max<int64_t>(1, std::min(batch, pool.num_threads()));
}

// function(part, first row, last row)
template <typename F>
void ForRows(xla::ffi::ThreadPool& pool, int64_t batch, const F& function) {
  const int64_t parts = Parts(pool, batch);
  ForEach(pool, parts, [&](int64_t part) { function(part, batch * part / parts, batch * (part + 1) / parts); });
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_THREADS_H_
