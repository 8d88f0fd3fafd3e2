// The skeleton of a cell's loops over the steps of some rows of the batch.

#ifndef FLAX_RNN_STEPS_H_
#define FLAX_RNN_STEPS_H_

#include "gradients.h"
#include "layer.h"

namespace flax_rnn {

// Calls body(t, inputs, state, h, next) for each step, with the operands x and h of G gates; it has to fill `next`, the
// h of the step (rows, H).
template <int G, typename Body>
void ForSteps(const Layer& layer, const ForwardArrays& arrays, int64_t first, int64_t last, const Body& body) {
  const int64_t units = layer.units, rows = last - first;
  Operand<G> inputs(layer.input_masks, rows, layer.features), state(layer.recurrent_masks, rows, units);
  std::vector<float> h = CopyRows(arrays.h0, first, last, units), next = h;
  for (int64_t step = 0; step < layer.steps; ++step) {
    const int64_t t = layer.Time(step);
    inputs.Set(arrays.x + (first * layer.steps + t) * layer.features, layer.steps * layer.features, first);
    state.Set(h.data(), units, first);
    body(t, inputs, state, h, next);
    h.swap(next);
  }
  std::copy(h.begin(), h.end(), arrays.h + first * units);
}

// Calls body(step, d_h) for each step from the last to the first; it has to turn the gradient of h (rows, H) after the
// step into that ahead of it.
template <typename Body>
void ForStepsBack(const Layer& layer, const BackwardArrays& arrays, int64_t first, int64_t last, const Body& body) {
  std::vector<float> d_h = CopyRows(arrays.d_h, first, last, layer.units);
  for (int64_t step = layer.steps - 1; step >= 0; --step) body(step, d_h);
  std::copy(d_h.begin(), d_h.end(), arrays.d_h0 + first * layer.units);
}

// Calls function(row, place, unit, before) for each row and vector of units of a step; `before` is the place of these
// units one step earlier in `sequence` (B, T, H), or in `initial` (B, H).
template <typename F>
void ForPlaces(const Layer& layer, int64_t step, int64_t first, int64_t last, const float* sequence,
               const float* initial, const F& function) {
  const int64_t units = layer.units, earlier = layer.reverse ? units : -units;
  for (int64_t row = 0; row < last - first; ++row) {
    const int64_t place = (first + row) * layer.steps + layer.Time(step);
    const float* const before = step > 0 ? sequence + place * units + earlier : initial + (first + row) * units;
    for (int64_t unit = 0; unit < units; unit += kLanes) function(row, place, unit, before + unit);
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_STEPS_H_
