// A step of a GRU that resets after the product, for one unit of one row, and its gradient. The gates are z, r, n:
//
//   z, r = R(sum)   s = h R_n + bias   n = A(x_n + r s)   h' = z h + (1 - z) n

#ifndef FLAX_RNN_CUDA_GRU_CUH_
#define FLAX_RNN_CUDA_GRU_CUH_

#include "activations.cuh"

namespace flax_rnn {

struct Gru {
  static constexpr int kGates = 3, kSums = 4, kValues = 4;
  static constexpr bool kHasCells = false;
  // Those of z and r, and s, which is the last.
  FLAX_RNN_DEVICE static constexpr int RecurrentSum(int gate) { return gate < 2 ? gate : 3; }

  template <int A, int R>
  FLAX_RNN_DEVICE static void Step(const float (&x)[3], const float (&products)[3], float bias, float& h, float&,
                                   float (&values)[4]) {
    const float z = Activate<R>(x[0] + products[0]), r = Activate<R>(x[1] + products[1]);
    const float s = products[2] + bias, n = Activate<A>(x[2] + r * s);
    h = z * h + (1.0f - z) * n;
    values[0] = Kept<R>(z), values[1] = Kept<R>(r), values[2] = Kept<A>(n), values[3] = s;
  }

  // From the state before the step.
  template <int A, int R>
  FLAX_RNN_DEVICE static void Back(const float (&values)[4], float before, float, float& d_h, float&,
                                   float (&d_sums)[4]) {
    const float z = values[0], r = values[1], n = values[2], s = values[3];
    const float d_n = Gradient<A>(n, d_h * (1.0f - z));
    d_sums[0] = Gradient<R>(z, d_h * (before - n));
    d_sums[1] = Gradient<R>(r, d_n * s);
    d_sums[2] = d_n;
    d_sums[3] = d_n * r;
    d_h *= z;
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_GRU_CUH_
