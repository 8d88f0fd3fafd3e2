// The loops of an LSTM: flax_rnn.LSTMCell has the equations. Gates are i, f, g, o; kept for the backward pass are their
// values and c of all steps.

#ifndef FLAX_RNN_LSTM_H_
#define FLAX_RNN_LSTM_H_

#include "steps.h"

namespace flax_rnn {

struct Lstm {
  static constexpr std::string_view kName = "lstm";
  static constexpr int kGates = 4, kSums = 4, kSaved = 4, kExtra = 1, kCell = 1;
  static constexpr bool kProductOfExtra = false;

  static std::vector<Panels> Pack(const Layer& layer, const float* kernel, const float* recurrent, const float* bias) {
    return {{kernel, layer.features, layer.units, 4, 0, 4},
            {recurrent, layer.units, layer.units, 4, 0, 4},
            {bias, 1, layer.units, 4, 0, 4}};
  }

  static void Forward(const Layer& layer, const std::vector<Panels>& panels, const ForwardArrays& arrays, int64_t first,
                      int64_t last) {
    const int64_t units = layer.units;
    std::vector<float> c = CopyRows(arrays.c0, first, last, units);
    ForSteps<4>(layer, arrays, first, last, [&](int64_t t, auto& inputs, auto& state, auto& h, auto& next) {
      for (int64_t unit = 0; unit < units; unit += kLanes)
        ForTiles(last - first, [&](int64_t tile, auto size) {
          constexpr int R = decltype(size)::value;
          Vector sums[R][4];
          for (int r = 0; r < R; ++r)
            for (int n = 0; n < 4; ++n) sums[r][n] = Load(panels[2].at(unit) + n * kLanes);
          inputs.Multiply(sums, tile, panels[0].at(unit));
          state.Multiply(sums, tile, panels[1].at(unit));
          for (int r = 0; r < R; ++r) {
            const int64_t place = (first + tile + r) * layer.steps + t, at = (tile + r) * units + unit;
            Finish(layer, arrays, sums[r], place, unit, &h[at], &next[at], &c[at]);
          }
        });
    });
    std::copy(c.begin(), c.end(), arrays.c + first * units);
  }

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       int64_t first, int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    std::vector<float> d_c = CopyRows(arrays.d_c, first, last, units), d_sums(rows * 4 * units);
    ForStepsBack(layer, arrays, first, last, [&](int64_t step, auto& d_h) {
      ForPlaces(layer, step, first, last, arrays.extra, arrays.c0,
                [&](int64_t row, int64_t place, int64_t unit, const float* c_before) {
                  const int64_t at = row * units + unit;
                  Differentiate(layer, arrays, place, unit, c_before, &d_h[at], &d_c[at],
                                &d_sums[row * 4 * units + unit]);
                });
      MultiplyTransposed<true>(transposed, layer.recurrent_masks, {0, 4, 4}, d_sums.data(), first, rows, 1, d_h.data());
    });
    std::copy(d_c.begin(), d_c.end(), arrays.d_c0 + first * units);
  }

 private:
  static void Finish(const Layer& layer, const ForwardArrays& arrays, const Vector (&sums)[4], int64_t place,
                     int64_t unit, const float* h_before, float* h_after, float* carried) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector i = Activate(layer.gate, sums[0]), f = Activate(layer.gate, sums[1]);
    const Vector g = Activate(layer.activation, sums[2]), o = Activate(layer.gate, sums[3]);
    Vector c = f * Load(carried, lanes) + i * g;
    Vector h = o * Activate(layer.activation, c);
    if (layer.Masked(place)) {
      c = Load(carried, lanes);
      h = Load(h_before, lanes);
    }
    Store(carried, c, lanes);
    Store(h_after, h, lanes);
    if (arrays.outputs != nullptr) Store(arrays.outputs + place * units + unit, h, lanes);
    if (arrays.gates == nullptr) return;
    Store(arrays.extra + place * units + unit, c, lanes);
    float* const gates = arrays.gates + place * 4 * units + unit;
    Store(gates, i, lanes);
    Store(gates + units, f, lanes);
    Store(gates + 2 * units, g, lanes);
    Store(gates + 3 * units, o, lanes);
  }

  static void Differentiate(const Layer& layer, const BackwardArrays& arrays, int64_t place, int64_t unit,
                            const float* c_before, float* d_h, float* d_c, float* d_sums) {
    const int64_t units = layer.units, lanes = units - unit;
    const float* const gates = arrays.gates + place * 4 * units + unit;
    Vector d = Load(d_h, lanes), d_gates[4] = {};
    if (arrays.d_outputs != nullptr) d += Load(arrays.d_outputs + place * units + unit, lanes);
    if (!layer.Masked(place)) {
      const Vector i = Load(gates, lanes), f = Load(gates + units, lanes);
      const Vector g = Load(gates + 2 * units, lanes), o = Load(gates + 3 * units, lanes);
      const Vector y = Activate(layer.activation, Load(arrays.extra + place * units + unit, lanes));
      const Vector d_cell = Gradient(layer.activation, y, d * o, Load(d_c, lanes));
      d_gates[0] = Gradient(layer.gate, i, d_cell * g);
      d_gates[1] = Gradient(layer.gate, f, d_cell * Load(c_before, lanes));
      d_gates[2] = Gradient(layer.activation, g, d_cell * i);
      d_gates[3] = Gradient(layer.gate, o, d * y);
      Store(d_c, d_cell * f, lanes);
      d = Vector{};
    }
    Store(d_h, d, lanes);
    for (int n = 0; n < 4; ++n) {
      Store(d_sums + n * units, d_gates[n], lanes);
      Store(arrays.d_sums + (place * 4 + n) * units + unit, d_gates[n], lanes);
    }
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_LSTM_H_
