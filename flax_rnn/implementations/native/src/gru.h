// The loops of a GRU that resets after the product: flax_rnn.GRUCell has the equations. Gates are z, r, n; kept for the
// backward pass are their values and h @ R_n + d_n of all steps, and the gradients of sums are those of z, r, the
// inputs' part of n and the state's.

#ifndef FLAX_RNN_GRU_H_
#define FLAX_RNN_GRU_H_

#include "steps.h"

namespace flax_rnn {

struct Gru {
  static constexpr std::string_view kName = "gru";
  static constexpr int kGates = 3, kSums = 4, kSaved = 4, kExtra = 0, kCell = 0;
  static constexpr bool kProductOfExtra = false;

  static std::vector<Panels> Pack(const Layer& layer, const float* kernel, const float* recurrent, const float* bias) {
    return {{kernel, layer.features, layer.units, 3, 0, 3},
            {recurrent, layer.units, layer.units, 3, 0, 3},
            {bias, 1, layer.units, 4, 0, 4}};
  }

  static void Forward(const Layer& layer, const std::vector<Panels>& panels, const ForwardArrays& arrays, int64_t first,
                      int64_t last) {
    const int64_t units = layer.units;
    ForSteps<3>(layer, arrays, first, last, [&](int64_t t, auto& inputs, auto& state, auto& h, auto& next) {
      for (int64_t unit = 0; unit < units; unit += kLanes)
        ForTiles(last - first, [&](int64_t tile, auto size) {
          constexpr int R = decltype(size)::value;
          const float* const bias = panels[2].at(unit);
          Vector sums[R][3], from_input[R];
          for (int r = 0; r < R; ++r)
            for (int n = 0; n < 3; ++n) sums[r][n] = Load(bias + n * kLanes);
          inputs.Multiply(sums, tile, panels[0].at(unit));
          for (int r = 0; r < R; ++r) {
            from_input[r] = sums[r][2];
            sums[r][2] = Load(bias + 3 * kLanes);
          }
          state.Multiply(sums, tile, panels[1].at(unit));
          for (int r = 0; r < R; ++r) {
            const int64_t place = (first + tile + r) * layer.steps + t, at = (tile + r) * units + unit;
            Finish(layer, arrays, sums[r], from_input[r], place, unit, &h[at], &next[at]);
          }
        });
    });
  }

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       int64_t first, int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    std::vector<float> d_sums(rows * 3 * units);
    ForStepsBack(layer, arrays, first, last, [&](int64_t step, auto& d_h) {
      ForPlaces(layer, step, first, last, arrays.outputs, arrays.h0,
                [&](int64_t row, int64_t place, int64_t unit, const float* h_before) {
                  Differentiate(layer, arrays, place, unit, h_before, &d_h[row * units + unit],
                                &d_sums[row * 3 * units + unit]);
                });
      MultiplyTransposed<true>(transposed, layer.recurrent_masks, {0, 3, 3}, d_sums.data(), first, rows, 1, d_h.data());
    });
  }

 private:
  static void Finish(const Layer& layer, const ForwardArrays& arrays, const Vector (&sums)[3], Vector from_input,
                     int64_t place, int64_t unit, const float* h_before, float* h_after) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector z = Activate(layer.gate, sums[0]), r = Activate(layer.gate, sums[1]);
    const Vector n = Activate(layer.activation, from_input + r * sums[2]);
    Vector h = Load(h_before, lanes);
    if (!layer.Masked(place)) h = z * h + (1.0f - z) * n;
    Store(h_after, h, lanes);
    if (arrays.outputs != nullptr) Store(arrays.outputs + place * units + unit, h, lanes);
    if (arrays.gates == nullptr) return;
    float* const gates = arrays.gates + place * 4 * units + unit;
    Store(gates, z, lanes);
    Store(gates + units, r, lanes);
    Store(gates + 2 * units, n, lanes);
    Store(gates + 3 * units, sums[2], lanes);
  }

  static void Differentiate(const Layer& layer, const BackwardArrays& arrays, int64_t place, int64_t unit,
                            const float* h_before, float* d_h, float* d_recurrent) {
    const int64_t units = layer.units, lanes = units - unit;
    const float* const gates = arrays.gates + place * 4 * units + unit;
    Vector d = Load(d_h, lanes), d_z = {}, d_r = {}, d_n = {}, d_state = {};
    if (arrays.d_outputs != nullptr) d += Load(arrays.d_outputs + place * units + unit, lanes);
    if (!layer.Masked(place)) {
      const Vector z = Load(gates, lanes), r = Load(gates + units, lanes), n = Load(gates + 2 * units, lanes);
      d_z = Gradient(layer.gate, z, d * (Load(h_before, lanes) - n));
      d_n = Gradient(layer.activation, n, d * (1.0f - z));
      d_r = Gradient(layer.gate, r, d_n * Load(gates + 3 * units, lanes));
      d_state = d_n * r;
      d = d * z;
    }
    Store(d_h, d, lanes);
    Store(d_recurrent, d_z, lanes);
    Store(d_recurrent + units, d_r, lanes);
    Store(d_recurrent + 2 * units, d_state, lanes);
    const Vector d_sums[4] = {d_z, d_r, d_n, d_state};
    for (int k = 0; k < 4; ++k) Store(arrays.d_sums + (place * 4 + k) * units + unit, d_sums[k], lanes);
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_GRU_H_
