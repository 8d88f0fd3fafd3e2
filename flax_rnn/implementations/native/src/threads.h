// Work for all threads of a pool and the calling one.

#ifndef FLAX_RNN_THREADS_H_
#define FLAX_RNN_THREADS_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace flax_rnn {

// Calls first(0) to first(firsts - 1), and when all are done second(0) to second(seconds - 1), each once; returns when
// all have returned. The calling thread takes part, and waits for nothing but calls that have begun: it returns even if
// the pool has no thread to spare. Once a call has thrown, those that have not begun are left out, and when no thread
// is at work any more, the first exception is thrown again.
//
// The pool has the members `num_threads` and `Schedule` of XLA's.
template <typename Pool, typename First, typename Second>
void ForEach(Pool& pool, int64_t firsts, const First& first, int64_t seconds, const Second& second) {
  struct Shared {
    std::atomic<int64_t> next{0}, finished{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // of whoever set `failed`
    std::mutex mutex;
    std::condition_variable done;
  };
  const int64_t count = firsts + seconds;
  auto shared = std::make_shared<Shared>();
  // A thread that comes too late finds nothing to do, and touches neither function.
  auto work = [shared, firsts, count, &first, &second] {
    for (int64_t index; (index = shared->next.fetch_add(1)) < count;) {
      // All of the first are taken by now, by threads that are at work on them.
      while (index >= firsts && shared->finished.load() < firsts) std::this_thread::yield();
      try {
        if (!shared->failed.load()) index < firsts ? first(index) : second(index - firsts);
      } catch (...) {
        if (!shared->failed.exchange(true)) shared->error = std::current_exception();
      }
      if (shared->finished.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->done.notify_all();
      }
    }
  };
  const int64_t helpers = std::min(std::max(firsts, seconds), pool.num_threads()) - 1;
  try {
    for (int64_t helper = 0; helper < helpers; ++helper) pool.Schedule(decltype(work)(work));
  } catch (...) {
    // There is no memory for more tasks, and those that there are refer to what lives here: go on with them.
  }
  work();
  // The others finish at about the same time: to look a few times is cheaper than to sleep.
  for (int look = 0; look < 100 && shared->finished.load() < count; ++look) std::this_thread::yield();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->finished.load() == count; });
  if (shared->failed.load()) std::rethrow_exception(std::move(shared->error));
}

// Once the `panels` panels are packed, function(first, last) for about as many rows for each thread.
template <typename Pool, typename Pack, typename F>
void ForRows(Pool& pool, int64_t panels, const Pack& pack, int64_t rows, const F& function) {
  const int64_t parts = std::max<int64_t>(1, std::min(rows, pool.num_threads()));
  ForEach(pool, panels, pack, parts, [&](int64_t part) { function(rows * part / parts, rows * (part + 1) / parts); });
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_THREADS_H_
