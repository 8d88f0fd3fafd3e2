// A step of an LSTM for one unit of one row, and its gradient. The gates are i, f, g, o:
//
//   i, f, o = R(sum)   g = A(sum)   c' = f c + i g   h' = o A(c')

#ifndef FLAX_RNN_CUDA_LSTM_CUH_
#define FLAX_RNN_CUDA_LSTM_CUH_

#include "activations.cuh"

namespace flax_rnn {

struct Lstm {
  static constexpr int kGates = 4, kSums = 4, kValues = 4;
  static constexpr bool kHasCells = true;
  // The sum that takes the product with the block of a gate.
  FLAX_RNN_DEVICE static constexpr int RecurrentSum(int gate) { return gate; }

  template <int A, int R>
  FLAX_RNN_DEVICE static void Step(const float (&x)[4], const float (&products)[4], float, float& h, float& c,
                                   float (&values)[4]) {
    const float i = Activate<R>(x[0] + products[0]), f = Activate<R>(x[1] + products[1]);
    const float g = Activate<A>(x[2] + products[2]), o = Activate<R>(x[3] + products[3]);
    c = f * c + i * g;
    h = o * Activate<A>(c);
    values[0] = Kept<R>(i), values[1] = Kept<R>(f), values[2] = Kept<A>(g), values[3] = Kept<R>(o);
  }

  // From the memory before and after the step. d_h becomes what goes to the state before it on a way of its own.
  template <int A, int R>
  FLAX_RNN_DEVICE static void Back(const float (&values)[4], float before, float after, float& d_h, float& d_c,
                                   float (&d_sums)[4]) {
    const float i = values[0], f = values[1], g = values[2], o = values[3], shown = Activate<A>(after);
    const float d = d_c + Gradient<A>(shown, d_h * o);
    d_sums[0] = Gradient<R>(i, d * g);
    d_sums[1] = Gradient<R>(f, d * before);
    d_sums[2] = Gradient<A>(g, d * i);
    d_sums[3] = Gradient<R>(o, d_h * shown);
    d_c = d * f;
    d_h = 0.0f;
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_LSTM_CUH_
