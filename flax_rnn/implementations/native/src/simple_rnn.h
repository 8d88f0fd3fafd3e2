// The loops of a SimpleRNN: flax_rnn.SimpleRNNCell has the equation. Its backward pass needs the outputs only.

#ifndef FLAX_RNN_SIMPLE_RNN_H_
#define FLAX_RNN_SIMPLE_RNN_H_

#include "steps.h"

namespace flax_rnn {

struct SimpleRnn {
  static constexpr std::string_view kName = "simple_rnn";
  static constexpr int kGates = 1, kSums = 1, kSaved = 0, kExtra = 0, kCell = 0;
  static constexpr bool kProductOfExtra = false;

  static std::vector<Panels> Pack(const Layer& layer, const float* kernel, const float* recurrent, const float* bias) {
    return {{kernel, layer.features, layer.units, 1, 0, 0},
            {recurrent, layer.units, layer.units, 1, 0, 0},
            {bias, 1, layer.units, 1, 0, 0}};
  }

  static void Forward(const Layer& layer, const std::vector<Panels>& panels, const ForwardArrays& arrays, int64_t first,
                      int64_t last) {
    const int64_t units = layer.units;
    ForSteps<1>(layer, arrays, first, last, [&](int64_t t, auto& inputs, auto& state, auto& h, auto& next) {
      for (int64_t wide = 0; wide < units; wide += kWide * kLanes)
        ForTiles(last - first, [&](int64_t tile, auto size) {
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
    });
  }

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       int64_t first, int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    std::vector<float> d_sums(rows * units);
    ForStepsBack(layer, arrays, first, last, [&](int64_t step, auto& d_h) {
      ForPlaces(layer, step, first, last, arrays.outputs, arrays.h0,
                [&](int64_t row, int64_t place, int64_t unit, const float*) {
                  const int64_t at = row * units + unit, lanes = units - unit;
                  Vector d = Load(&d_h[at], lanes);
                  if (arrays.d_outputs != nullptr) d += Load(arrays.d_outputs + place * units + unit, lanes);
                  const Vector y = Load(arrays.outputs + place * units + unit, lanes);
                  const bool masked = layer.Masked(place);
                  const Vector d_sum = masked ? Vector{} : Gradient(layer.activation, y, d);
                  Store(&d_h[at], masked ? d : Vector{}, lanes);
                  Store(&d_sums[at], d_sum, lanes);
                  Store(arrays.d_sums + place * units + unit, d_sum, lanes);
                });
      MultiplyTransposed<true>(transposed, layer.recurrent_masks, {0, 1, 1}, d_sums.data(), first, rows, 1, d_h.data());
    });
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_SIMPLE_RNN_H_
