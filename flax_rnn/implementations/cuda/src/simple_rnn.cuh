// A step of Elman's network for one unit of one row, and its gradient:
//
//   h' = A(sum)

#ifndef FLAX_RNN_CUDA_SIMPLE_RNN_CUH_
#define FLAX_RNN_CUDA_SIMPLE_RNN_CUH_

#include "activations.cuh"

namespace flax_rnn {

struct SimpleRnn {
  static constexpr int kGates = 1, kSums = 1, kValues = 0;
  static constexpr bool kHasCells = false;
  FLAX_RNN_DEVICE static constexpr int RecurrentSum(int gate) { return gate; }

  template <int A, int R>
  FLAX_RNN_DEVICE static void Step(const float (&x)[1], const float (&products)[1], float, float& h, float&,
                                   float (&)[1]) {
    h = Activate<A>(x[0] + products[0]);
  }

  // From the state after the step.
  template <int A, int R>
  FLAX_RNN_DEVICE static void Back(const float (&)[1], float, float after, float& d_h, float&, float (&d_sums)[1]) {
    d_sums[0] = Gradient<A>(after, d_h);
    d_h = 0.0f;
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_SIMPLE_RNN_CUH_
