// The passes of every cell on threads of its own, for sanitizers: results are those of one thread, bit for bit, and
// what a thread throws arrives at the caller.

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>

#include "passes.h"

namespace flax_rnn {
namespace {

// A thread for each task; all have ended with the pool. They keep a task for a while when it is done, so that its
// caller has gone on: what they destroy then must not be the caller's any more.
class Threads {
 public:
  explicit Threads(int64_t count) : count_(count) {}
  ~Threads() {
    for (std::thread& thread : threads_) thread.join();
  }

  int64_t num_threads() const { return count_; }
  void Schedule(std::function<void()> task) {
    threads_.emplace_back([task = std::move(task)] {
      task();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  }

 private:
  const int64_t count_;
  std::vector<std::thread> threads_;
};

using Floats = std::vector<float>;

Floats Random(int64_t count) {
  static std::mt19937 engine(0);
  std::uniform_real_distribution<float> numbers(-0.5f, 0.5f);
  Floats values(count);
  for (float& value : values) value = numbers(engine);
  return values;
}

void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

struct Sizes {
  int64_t batch, steps, features, units;
};

// A layer of one cell, with arrays that are no larger than they have to be.
template <typename Cell>
class Problem {
 public:
  Problem(Sizes sizes, int64_t masks, bool reverse)
      : rows_(sizes.batch * sizes.steps),
        carry_(sizes.batch * sizes.units),
        x_(Random(rows_ * sizes.features)),
        h0_(Random(carry_)),
        c0_(Random(Cell::kCell * carry_)),
        kernel_(Random(sizes.features * Cell::kGates * sizes.units)),
        recurrent_(Random(sizes.units * Cell::kGates * sizes.units)),
        bias_(Random(Cell::kSums * sizes.units)),
        input_masks_(Random(masks * sizes.batch * sizes.features)),
        recurrent_masks_(Random(masks * carry_)),
        d_h_(Random(carry_)),
        d_c_(Random(Cell::kCell * carry_)),
        d_outputs_(Random(rows_ * sizes.units)),
        mask_(new bool[rows_]) {
    for (int64_t place = 0; place < rows_; ++place) mask_[place] = place % 5 != 0;
    layer_ = {sizes.batch,
              sizes.steps,
              sizes.features,
              sizes.units,
              reverse,
              Activation::kTanh,
              Activation::kSigmoid,
              {input_masks_.data(), masks, sizes.batch},
              {recurrent_masks_.data(), masks, sizes.batch},
              mask_.get()};
  }

  // The results of all passes on so many threads.
  std::vector<Floats> Results(int64_t threads) const {
    const int64_t units = layer_.units, columns = Cell::kGates * units;
    Floats h(carry_), c(Cell::kCell * carry_), outputs(rows_ * units), gates(rows_ * Cell::kSaved * units);
    Floats extra(rows_ * Cell::kExtra * units), d_sums(rows_ * Cell::kSums * units), d_h0(carry_), d_c0(c.size());
    Floats d_x(x_.size()), d_kernel(layer_.features * columns), d_recurrent(units * columns), d_bias(bias_.size());
    Threads pool(threads);
    Forward<Cell>(pool, layer_, {kernel_.data(), recurrent_.data(), bias_.data()},
                  {x_.data(), h0_.data(), c0_.data(), h.data(), c.data(), outputs.data(),
                   Cell::kSaved > 0 ? gates.data() : nullptr, extra.data()});
    Backward<Cell>(pool, layer_, recurrent_.data(),
                   {outputs.data(), gates.data(), extra.data(), h0_.data(), c0_.data(), d_h_.data(), d_c_.data(),
                    d_outputs_.data(), d_sums.data(), d_h0.data(), d_c0.data()});
    InputsGradient<Cell>(pool, layer_, kernel_.data(), d_sums.data(), d_x.data());
    WeightsGradient<Cell>(pool, layer_,
                          {d_sums.data(), x_.data(), outputs.data(), extra.data(), h0_.data(), d_kernel.data(),
                           d_recurrent.data(), d_bias.data()});
    return {h, c, outputs, gates, extra, d_sums, d_h0, d_c0, d_x, d_kernel, d_recurrent, d_bias};
  }

 private:
  const int64_t rows_, carry_;
  const Floats x_, h0_, c0_, kernel_, recurrent_, bias_, input_masks_, recurrent_masks_, d_h_, d_c_, d_outputs_;
  const std::unique_ptr<bool[]> mask_;
  Layer layer_;
};

template <typename Cell>
void TestThreads() {
  const Sizes all[] = {{7, 5, 3, 21}, {1, 1, 1, 1}, {16, 9, 17, 70},  {0, 3, 2, 4},   {3, 0, 2, 4},
                       {2, 3, 0, 4},  {2, 3, 4, 0}, {40, 12, 10, 64}, {2, 9, 9, 250}, {2, 3, 5, 40}};
  for (const Sizes& sizes : all)
    for (int64_t masks : {0, 1, Cell::kGates})
      for (bool reverse : {false, true}) {
        const Problem<Cell> problem(sizes, masks, reverse);
        const std::vector<Floats> expected = problem.Results(1);
        for (int64_t threads : {2, 5})
          Require(problem.Results(threads) == expected, std::string(Cell::kName) + ": threads change the results");
      }
}

// Callers at once share the memory that is kept for the next call, and nothing else.
template <typename Cell>
void TestCallers() {
  for (const Sizes& sizes : {Sizes{2, 9, 9, 250}, Sizes{40, 12, 10, 64}}) {
    const Problem<Cell> problem(sizes, Cell::kGates, false);
    const std::vector<Floats> expected = problem.Results(1);
    std::atomic<bool> right{true};
    std::vector<std::thread> callers;
    for (int64_t caller = 0; caller < 6; ++caller)
      callers.emplace_back([&, threads = 1 + caller % 3] {
        for (int64_t repeat = 0; repeat < 3; ++repeat)
          if (problem.Results(threads) != expected) right = false;
      });
    for (std::thread& caller : callers) caller.join();
    Require(right, std::string(Cell::kName) + ": callers change each other's results");
  }
}

// Every call is begun at most once, and none of the second before all of the first have returned.
void TestOrder() {
  for (int64_t repeat = 0; repeat < 50; ++repeat) {
    Threads pool(4);
    std::vector<int> first(9), second(7);
    ForEach(
        pool, first.size(), [&](int64_t index) { ++first[index]; }, second.size(),
        [&](int64_t index) { second[index] += std::count(first.begin(), first.end(), 1); });
    Require(first == std::vector<int>(9, 1) && second == std::vector<int>(7, 9), "calls out of order");
  }
}

// Whoever throws, and however many, one exception arrives, with no call running any more.
void TestExceptions() {
  for (int64_t repeat = 0; repeat < 50; ++repeat) {
    Threads pool(4);
    std::atomic<int> running{0};
    const int64_t bad = repeat % 12;
    const auto call = [&](int64_t index) {
      ++running;
      const bool fails = index == bad || (repeat % 2 == 0 && index > 3);
      --running;
      if (fails) throw std::runtime_error("thrown");
    };
    std::string caught;
    try {
      ForEach(pool, 6, call, 6, [&](int64_t index) { call(6 + index); });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    Require(caught == "thrown" && running == 0, "an exception is lost");
  }
}

// All that take part meet at each barrier, however many come in time.
void TestTogether() {
  for (int64_t repeat = 0; repeat < 50; ++repeat) {
    Threads pool(4);
    Meeting meeting;
    std::vector<int> steps(4);
    int64_t count = 0;
    bool together = true;
    Together(pool, 4, std::chrono::microseconds(repeat * 20),
             [&](int64_t index, int64_t threads, const std::atomic<bool>& abandoned) {
               Barrier barrier(meeting, threads, abandoned);
               for (int step = 1; step <= 20; ++step) {
                 steps[index] = step;
                 barrier.Wait();
                 if (index == 0) {
                   count = threads;
                   together = together && std::count(steps.begin(), steps.begin() + threads, step) == threads;
                 }
                 barrier.Wait();
               }
             });
    Require(together && std::count(steps.begin(), steps.end(), 20) == count, "threads do not wait for one another");
  }
}

// One that throws keeps nobody waiting.
void TestAbandoned() {
  for (int64_t repeat = 0; repeat < 50; ++repeat) {
    Threads pool(4);
    Meeting meeting;
    std::string caught;
    try {
      Together(pool, 4, std::chrono::milliseconds(5),
               [&](int64_t index, int64_t threads, const std::atomic<bool>& abandoned) {
                 Barrier barrier(meeting, threads, abandoned);
                 barrier.Wait();
                 if (index == repeat % threads) throw std::runtime_error("thrown");
                 barrier.Wait();
               });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    Require(caught == "thrown", "an exception of threads that are together is lost");
  }
}

// A pool that has no memory for tasks costs no more than the threads.
void TestPoolThatThrows() {
  struct Full {
    int64_t num_threads() const { return 4; }
    void Schedule(const std::function<void()>&) { throw std::bad_alloc(); }
  } pool;
  std::vector<int> calls(9);
  ForEach(pool, 0, [](int64_t) {}, calls.size(), [&](int64_t index) { ++calls[index]; });
  Require(calls == std::vector<int>(9, 1), "calls are lost");
  int64_t alone = 0;
  Together(pool, 4, std::chrono::microseconds(5),
           [&](int64_t index, int64_t threads, const std::atomic<bool>&) { alone += index == 0 && threads == 1; });
  Require(alone == 1, "the calling thread is not alone");
}

}  // namespace
}  // namespace flax_rnn

int main() {
  flax_rnn::Cells::ForAll([](auto cell) { flax_rnn::TestThreads<decltype(cell)>(); });
  flax_rnn::Cells::ForAll([](auto cell) { flax_rnn::TestCallers<decltype(cell)>(); });
  flax_rnn::TestOrder();
  flax_rnn::TestExceptions();
  flax_rnn::TestTogether();
  flax_rnn::TestAbandoned();
  flax_rnn::TestPoolThatThrows();
  std::puts("as expected");
}
