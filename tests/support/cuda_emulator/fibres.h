// Functions that stop in the middle and are taken up again, each with a stack of its own.
//
// ucontext_t starts them alone, since a switch by it asks the system for the signals that are blocked; after that they
// are left and entered with _setjmp and _longjmp, which only move registers.

#ifndef FLAX_RNN_CUDA_EMULATOR_FIBRES_H_
#define FLAX_RNN_CUDA_EMULATOR_FIBRES_H_

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>

#if defined(_FORTIFY_SOURCE) && _FORTIFY_SOURCE > 0
#error "_longjmp is said to refuse a jump to another stack: compile with -U_FORTIFY_SOURCE"
#endif

namespace flax_rnn::emulator {

// Memory for the stacks of many fibres, which takes room only where it is used.
class Stacks {
 public:
  // No power of two: else the tops of all stacks would compete for a few lines of the cache.
  static constexpr size_t kBytes = (64 << 10) + 17 * 64;

  explicit Stacks(size_t count) : bytes_(count * kBytes) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
  }
  ~Stacks() { munmap(memory_, bytes_); }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  char* operator[](size_t index) const { return static_cast<char*>(memory_) + index * kBytes; }

 private:
  size_t bytes_;
  void* memory_;
};

// One that is given up before its function has returned destroys nothing of what that has on its stack.
class Fibre {
 public:
  using Function = void (*)(void* argument);

  // Prepares a call that the first Resume begins.
  void Start(Function function, void* argument, char* stack) {
    function_ = function;
    argument_ = argument;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = Stacks::kBytes;
    context_.uc_link = nullptr;
    const uintptr_t self = reinterpret_cast<uintptr_t>(this);
    makecontext(&context_, reinterpret_cast<void (*)()>(&Enter), 2, static_cast<unsigned>(uint64_t{self} >> 32),
                static_cast<unsigned>(self));
    if (_setjmp(outside_) == 0) setcontext(&context_);
  }

  // From without: goes on until the function calls Suspend or returns; throws what it has thrown.
  void Resume() {
    if (_setjmp(outside_) == 0) _longjmp(inside_, 1);
    if (error_) std::rethrow_exception(error_);
  }

  // From within: returns at the next Resume.
  void Suspend() {
    if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
  }

 private:
  // Arguments of a context are ints.
  static void Enter(unsigned high, unsigned low) {
    Fibre& self = *reinterpret_cast<Fibre*>(static_cast<uintptr_t>(uint64_t{high} << 32 | low));
    self.Suspend();
    try {
      self.function_(self.argument_);
    } catch (...) {
      self.error_ = std::current_exception();
    }
    for (;;) self.Suspend();
  }

  Function function_ = nullptr;
  void* argument_ = nullptr;
  std::exception_ptr error_;
  ucontext_t context_;
  jmp_buf inside_, outside_;
};

}  // namespace flax_rnn::emulator

#endif  // FLAX_RNN_CUDA_EMULATOR_FIBRES_H_
