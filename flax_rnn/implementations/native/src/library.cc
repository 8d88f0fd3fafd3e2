// What flax_rnn.implementations.native.library asks a library ahead of its first call.

#include <cstdint>

// Raised, here and there, whenever a function that XLA calls takes or returns something else.
extern "C" int64_t FlaxRnnInterface() { return 2; }

// The digest of the sources, which setup.py hands over.
extern "C" const char* FlaxRnnDigest() { return FLAX_RNN_DIGEST; }

// Whether the processor has the instructions that this was compiled for.
extern "C" bool FlaxRnnSupported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
  return true;
#endif
}
