// Work for all threads of a pool and the calling one.

#ifndef FLAX_RNN_THREADS_H_
#define FLAX_RNN_THREADS_H_

#include <algorithm>
#include <atomic>
#include <chrono>
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

// What threads share that wait for one another: how often one of them has come.
struct alignas(64) Meeting {
  std::atomic<int64_t> arrivals{0};
};

// Where some threads wait for one another that are at work together, or one for nobody. They look for a while ahead of
// giving way, since they wait at every step of a layer, for less than it takes to sleep.
class Barrier {
 public:
  Barrier() = default;
  Barrier(Meeting& meeting, int64_t threads, const std::atomic<bool>& abandoned)
      : meeting_(&meeting), threads_(threads), abandoned_(&abandoned) {}

  // Throws Abandoned once one of them has thrown something.
  void Wait() {
    if (threads_ == 1) return;
    awaited_ += threads_;
    meeting_->arrivals.fetch_add(1);
    for (int64_t look = 0; meeting_->arrivals.load() < awaited_; ++look) {
      if (abandoned_->load()) throw Abandoned();
      look < kLooks ? Pause() : std::this_thread::yield();
    }
  }

  struct Abandoned {};

 private:
  static constexpr int64_t kLooks = 10000;

  static void Pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  Meeting* meeting_ = nullptr;
  int64_t threads_ = 1, awaited_ = 0;
  const std::atomic<bool>* abandoned_ = nullptr;
};

// Calls function(index, threads, abandoned) on up to `most` threads at once, each with an index of its own: the calling
// one, and those of the pool that come within `patience`, so that all may wait for one another. Returns when all have
// returned. Of what they throw one exception is thrown again; the others know from `abandoned`, by their barriers.
template <typename Pool, typename F>
void Together(Pool& pool, int64_t most, std::chrono::microseconds patience, const F& function) {
  struct Shared {
    std::atomic<int64_t> arrived{1}, count{0}, finished{0};  // `arrived` is out of reach once they have begun
    std::atomic<bool> abandoned{false};
    std::exception_ptr error;  // of whoever set `abandoned`
  };
  auto shared = std::make_shared<Shared>();
  const auto take_part = [&function](Shared& all, int64_t index) {
    try {
      function(index, all.count.load(), all.abandoned);
    } catch (const Barrier::Abandoned&) {
    } catch (...) {
      if (!all.abandoned.exchange(true)) all.error = std::current_exception();
    }
    all.finished.fetch_add(1);
  };
  constexpr int64_t kBegun = int64_t{1} << 32;
  // A thread that comes too late touches nothing of the caller's.
  auto help = [shared, take_part] {
    const int64_t index = shared->arrived.fetch_add(1);
    if (index >= kBegun) return;
    while (shared->count.load() == 0) std::this_thread::yield();
    take_part(*shared, index);
  };
  try {
    for (int64_t helper = 1; helper < most; ++helper) pool.Schedule(decltype(help)(help));
  } catch (...) {
    // There is no memory for more tasks: those that there are come or not.
  }
  const auto start = std::chrono::steady_clock::now();
  while (shared->arrived.load() < most && std::chrono::steady_clock::now() - start < patience)
    std::this_thread::yield();
  const int64_t count = shared->arrived.fetch_add(kBegun);
  shared->count.store(count);
  take_part(*shared, 0);
  while (shared->finished.load() < count) std::this_thread::yield();
  // Moved, so that a thread that still holds `shared` does not destroy what the caller is reading.
  if (shared->abandoned.load()) std::rethrow_exception(std::move(shared->error));
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_THREADS_H_
