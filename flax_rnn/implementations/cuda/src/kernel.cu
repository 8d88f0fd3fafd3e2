// One kernel, for one cell, element, size and pass, as the macros say that kernels.py names.

#include "backward.cuh"
#include "forward.cuh"
#include "gru.cuh"
#include "lstm.cuh"
#include "simple_rnn.cuh"

namespace flax_rnn {

typedef ELEMENT E;
typedef Shape<E, CELL, UNITS, CLUSTER, SPLIT, (DROPPED != 0)> S;

#ifdef BYTES  // of shared memory, as tiles.py counts them
static_assert(BYTES == 4 * (BACKWARD ? S::kBackwardWords : S::kForwardWords), "as in shape.cuh");
#endif

#if BACKWARD

FLAX_RNN_KERNEL(S::kThreads)
flax_rnn_backward(const E* values, const float* cells, const E* outputs, const E* recurrent, const u8* mask,
                  const u8* resets, const E* dropped, const float* h0, const float* c0, const E* d_outputs,
                  const float* d_h, const float* d_c, E* d_sums, float* d_h0, float* d_c0, int steps, int rows,
                  int flags) {
  Backward<S, ACTIVATION, RECURRENT_ACTIVATION>({values, cells, outputs, recurrent, mask, resets, dropped, h0, c0,
                                                 d_outputs, d_h, d_c, d_sums, d_h0, d_c0, steps, rows, flags});
}
FLAX_RNN_EXPORT(flax_rnn_backward)

#else

FLAX_RNN_KERNEL(S::kThreads)
flax_rnn_forward(const E* x, const u8* mask, const u8* resets, const E* recurrent, const float* bias, const E* dropped,
                 const float* h0, const float* c0, E* outputs, E* values, float* cells, float* h, float* c, int steps,
                 int rows, int flags) {
  Forward<S, ACTIVATION, RECURRENT_ACTIVATION>(
      {x, mask, resets, recurrent, bias, dropped, h0, c0, outputs, values, cells, h, c, steps, rows, flags});
}
FLAX_RNN_EXPORT(flax_rnn_forward)

#endif

}  // namespace flax_rnn
