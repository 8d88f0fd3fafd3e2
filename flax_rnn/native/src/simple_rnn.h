// The loops of a SimpleRNN: flax_rnn.SimpleRNNCell has the equation. Its backward pass needs the outputs only.

#ifndef FLAX_RNN_SIMPLE_RNN_H_
#define FLAX_RNN_SIMPLE_RNN_H_

#include "gradients.h"

namespace flax_rnn {

struct SimpleRnn {
  static std::vector<Panels> Pack(const Layer& layer, const float* kernel, const float* recurrent, const float* bias) {
    return {{kernel, layer.features, layer.units, 1, 0, 0},
            {recurrent, layer.units, layer.units, 1, 0, 0},
            {bias, 1, layer.units, 1, 0, 0}};
  }

  static void Forward(const Layer& layer, const std::vector<Panels>& panels, const ForwardArrays& arrays, int64_t first,
                      int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    Operand<1> inputs(layer.input_masks, rows, layer.features), state(layer.recurrent_masks, rows, units);
    std::vector<float> h = CopyRows(arrays.h0, first, last, units), next = h;
    for (int64_t step = 0; step < layer.steps; ++step) {
      const int64_t t = layer.Time(step);
      inputs.Set(arrays.x + (first * layer.steps + t) * layer.features, layer.steps * layer.features, first);
      state.Set(h.data(), units, first);
      for (int64_t wide = 0; wide < units; wide += kWide * kLanes)
        ForTiles(rows, [&](int64_t tile, auto size) {
          constexpr int R = decltype(size)::value;
          Vector sums[R][kWide];
          for (int r = 0; r < R; ++r)
            for (int n = 0; n < kWide; ++n) sums[r][n] = Load(panels[2].at(wide) + n * kLanes);
          inputs.Multiply(sums, tile, panels[0].at(wide));
          state.Multiply(sums, tile, panels[1].at(wide));
          for (int r = 0; r < R; ++r)
            for (int n = 0; n < kWide && wide + n * kLanes < units; ++n) {
              const int64_t place = (first + tile + r) * layer.steps + t, unit = wide + n * kLanes;
              const int64_t at = (tile + r) * units + unit, lanes = units - unit;
              const Vector y = layer.Masked(place) ? Load(&h[at], lanes) : Activate(layer.activation, sums[r][n]);
              Store(&next[at], y, lanes);
              if (arrays.outputs != nullptr) Store(arrays.outputs + place * units + unit, y, lanes);
            }
        });
      h.swap(next);
    }
    std::copy(h.begin(), h.end(), arrays.h + first * units);
  }

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       int64_t first, int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    std::vector<float> d_h = CopyRows(arrays.d_h, first, last, units), d_sums(rows * units);
    for (int64_t step = layer.steps - 1; step >= 0; --step) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t place = (first + row) * layer.steps + layer.Time(step);
        const bool masked = layer.Masked(place);
        for (int64_t unit = 0; unit < units; unit += kLanes) {
          const int64_t at = row * units + unit, lanes = units - unit;
          Vector d = Load(&d_h[at], lanes);
          if (arrays.d_outputs != nullptr) d += Load(arrays.d_outputs + place * units + unit, lanes);
          const Vector y = Load(arrays.outputs + place * units + unit, lanes);
          const Vector d_sum = masked ? Vector{} : d * Slope(layer.activation, y);
          Store(&d_h[at], masked ? d : Vector{}, lanes);
          Store(&d_sums[at], d_sum, lanes);
          Store(arrays.d_sums + place * units + unit, d_sum, lanes);
        }
      }
      MultiplyTransposed<true>(transposed, layer.recurrent_masks, {0, 1, 1}, d_sums.data(), first, rows, 1, d_h.data());
    }
    std::copy(d_h.begin(), d_h.end(), arrays.d_h0 + first * units);
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_SIMPLE_RNN_H_
