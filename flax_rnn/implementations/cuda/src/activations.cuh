// The activations of recurrent layers, and their gradients.

#ifndef FLAX_RNN_CUDA_ACTIVATIONS_CUH_
#define FLAX_RNN_CUDA_ACTIVATIONS_CUH_

#include "device.cuh"

namespace flax_rnn {

enum Activation { kLinear, kTanh, kSigmoid, kRelu, kHardSigmoid, kHardSigmoidKeras2, kSoftsign };

FLAX_RNN_DEVICE float Clip(float x) { return x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x; }

template <int A>
FLAX_RNN_DEVICE float Activate(float x) {
  if constexpr (A == kTanh) return Tanh(x);
  if constexpr (A == kSigmoid) return 0.5f * Tanh(0.5f * x) + 0.5f;
  if constexpr (A == kRelu) return x < 0.0f ? 0.0f : x;
  if constexpr (A == kHardSigmoid) return Clip(x * (1.0f / 6) + 0.5f);
  if constexpr (A == kHardSigmoidKeras2) return Clip(x * 0.2f + 0.5f);
  if constexpr (A == kSoftsign) return x / (1.0f + (x < 0.0f ? -x : x));
  return x;
}

// The gradient of the argument, from the value y and its gradient d. Where y is constant it is 0 for any d.
template <int A>
FLAX_RNN_DEVICE float Gradient(float y, float d) {
  if constexpr (A == kTanh) return d * (1.0f - y * y);
  if constexpr (A == kSigmoid) return d * (y * (1.0f - y));
  if constexpr (A == kRelu) return y > 0.0f ? d : 0.0f;
  if constexpr (A == kHardSigmoid) return y > 0.0f && y < 1.0f ? d * (1.0f / 6) : 0.0f;
  if constexpr (A == kHardSigmoidKeras2) return y > 0.0f && y < 1.0f ? d * 0.2f : 0.0f;
  if constexpr (A == kSoftsign) {
    const float rest = 1.0f - (y < 0.0f ? -y : y);
    return d * (rest * rest);
  }
  return d;
}

// The value as it is kept for the gradient, maybe in bfloat16: one below 1 must not be rounded to 1, where a hard
// sigmoid has no gradient.
template <int A>
FLAX_RNN_DEVICE float Kept(float y) {
  constexpr float kBelow = 1.0f - 1.0f / 256;
  if constexpr (A == kHardSigmoid || A == kHardSigmoidKeras2) return y < 1.0f && y > kBelow ? kBelow : y;
  return y;
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_ACTIVATIONS_CUH_
