// The loops of a GRU that resets before the product: flax_rnn.GRUCell has the equations. A step is in two halves, since
// n needs r of all units. Gates are z, r, n; kept for the backward pass are their values and r * h of all steps.

#ifndef FLAX_RNN_GRU_RESET_BEFORE_H_
#define FLAX_RNN_GRU_RESET_BEFORE_H_

#include "steps.h"

namespace flax_rnn {

struct GruResetBefore {
  static constexpr std::string_view kName = "gru_reset_before";
  static constexpr int kGates = 3, kSums = 3, kSaved = 3, kExtra = 1, kCell = 0;
  static constexpr bool kProductOfExtra = true;

  static std::vector<Panels> Pack(const Layer& layer, const float* kernel, const float* recurrent, const float* bias) {
    return {{kernel, layer.features, layer.units, 3, 0, 3},
            {recurrent, layer.units, layer.units, 3, 0, 2},
            {bias, 1, layer.units, 3, 0, 3},
            {recurrent, layer.units, layer.units, 3, 2, 0}};
  }

  static void Forward(const Layer& layer, const std::vector<Panels>& panels, const ForwardArrays& arrays, int64_t first,
                      int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    Operand<1> reset_state(layer.recurrent_masks.One(2, units), rows, units);
    std::vector<float> z(rows * units), n(rows * units), reset(rows * units);
    ForSteps<3>(layer, arrays, first, last, [&](int64_t t, auto& inputs, auto& state, auto& h, auto& next) {
      for (int64_t unit = 0; unit < units; unit += kLanes)
        ForTiles(rows, [&](int64_t tile, auto size) {
          constexpr int R = decltype(size)::value;
          const int64_t lanes = units - unit;
          Vector sums[R][3], gates[R][2];
          for (int r = 0; r < R; ++r)
            for (int k = 0; k < 3; ++k) sums[r][k] = Load(panels[2].at(unit) + k * kLanes);
          inputs.Multiply(sums, tile, panels[0].at(unit));
          for (int r = 0; r < R; ++r)
            for (int k = 0; k < 2; ++k) gates[r][k] = sums[r][k];
          state.Multiply(gates, tile, panels[1].at(unit));
          for (int r = 0; r < R; ++r) {
            const int64_t at = (tile + r) * units + unit, place = (first + tile + r) * layer.steps + t;
            const Vector update = Activate(layer.gate, gates[r][0]), open = Activate(layer.gate, gates[r][1]);
            const Vector kept = open * Load(&h[at], lanes);
            Store(&z[at], update, lanes);
            Store(&n[at], sums[r][2], lanes);
            Store(&reset[at], kept, lanes);
            if (arrays.gates == nullptr) continue;
            Store(arrays.extra + place * units + unit, kept, lanes);
            Store(arrays.gates + place * 3 * units + unit, update, lanes);
            Store(arrays.gates + place * 3 * units + unit + units, open, lanes);
          }
        });
      reset_state.Set(reset.data(), units, first);
      for (int64_t wide = 0; wide < units; wide += kWide * kLanes)
        ForTiles(rows, [&](int64_t tile, auto size) {
          constexpr int R = decltype(size)::value;
          Vector sums[R][kWide] = {};
          for (int r = 0; r < R; ++r)
            for (int k = 0; k < kWide && wide + k * kLanes < units; ++k)
              sums[r][k] = Load(&n[(tile + r) * units + wide + k * kLanes], units - wide - k * kLanes);
          reset_state.Multiply(sums, tile, panels[3].at(wide));
          for (int r = 0; r < R; ++r)
            for (int k = 0; k < kWide && wide + k * kLanes < units; ++k) {
              const int64_t unit = wide + k * kLanes, place = (first + tile + r) * layer.steps + t;
              Finish(layer, arrays, sums[r][k], place, unit, &z[(tile + r) * units + unit],
                     &h[(tile + r) * units + unit], &next[(tile + r) * units + unit]);
            }
        });
    });
  }

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       int64_t first, int64_t last) {
    const int64_t units = layer.units, rows = last - first;
    std::vector<float> d_reset(rows * units), d_sums(rows * 3 * units);
    ForStepsBack(layer, arrays, first, last, [&](int64_t step, auto& d_h) {
      const auto differentiate = [&](auto half) {
        ForPlaces(layer, step, first, last, arrays.outputs, arrays.h0,
                  [&](int64_t row, int64_t place, int64_t unit, const float* h_before) {
                    const int64_t at = row * units + unit;
                    half(layer, arrays, place, unit, h_before, &d_h[at], &d_reset[at], &d_sums[row * 3 * units + unit]);
                  });
      };
      differentiate(DifferentiateOutput);
      MultiplyTransposed<true>(transposed, layer.recurrent_masks, {2, 1, 3}, d_sums.data(), first, rows, 1,
                               d_reset.data());
      differentiate(DifferentiateReset);
      MultiplyTransposed<true>(transposed, layer.recurrent_masks, {0, 2, 3}, d_sums.data(), first, rows, 1, d_h.data());
    });
  }

 private:
  static void Finish(const Layer& layer, const ForwardArrays& arrays, Vector sum, int64_t place, int64_t unit,
                     const float* update, const float* h_before, float* h_after) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector n = Activate(layer.activation, sum), z = Load(update, lanes);
    Vector h = Load(h_before, lanes);
    if (!layer.Masked(place)) h = z * h + (1.0f - z) * n;
    Store(h_after, h, lanes);
    if (arrays.outputs != nullptr) Store(arrays.outputs + place * units + unit, h, lanes);
    if (arrays.gates != nullptr) Store(arrays.gates + place * 3 * units + 2 * units + unit, n, lanes);
  }

  // From h' to z and n.
  static void DifferentiateOutput(const Layer& layer, const BackwardArrays& arrays, int64_t place, int64_t unit,
                                  const float* h_before, float* d_h, float* d_reset, float* d_sums) {
    const int64_t units = layer.units, lanes = units - unit;
    const float* const gates = arrays.gates + place * 3 * units + unit;
    Vector d = Load(d_h, lanes), d_z = {}, d_n = {};
    if (arrays.d_outputs != nullptr) d += Load(arrays.d_outputs + place * units + unit, lanes);
    if (!layer.Masked(place)) {
      const Vector z = Load(gates, lanes), n = Load(gates + 2 * units, lanes);
      d_z = Gradient(layer.gate, z, d * (Load(h_before, lanes) - n));
      d_n = Gradient(layer.activation, n, d * (1.0f - z));
      d = d * z;
    }
    Store(d_h, d, lanes);
    Store(d_reset, Vector{}, lanes);
    Store(d_sums, d_z, lanes);
    Store(d_sums + 2 * units, d_n, lanes);
  }

  // From r * h to r and h.
  static void DifferentiateReset(const Layer& layer, const BackwardArrays& arrays, int64_t place, int64_t unit,
                                 const float* h_before, float* d_h, float* d_reset, float* d_sums) {
    const int64_t units = layer.units, lanes = units - unit;
    const float* const gates = arrays.gates + place * 3 * units + unit;
    Vector d_r = {};
    if (!layer.Masked(place)) {
      const Vector d = Load(d_reset, lanes), r = Load(gates + units, lanes);
      d_r = Gradient(layer.gate, r, d * Load(h_before, lanes));
      Store(d_h, Load(d_h, lanes) + d * r, lanes);
    }
    Store(d_sums + units, d_r, lanes);
    for (int k = 0; k < 3; ++k)
      Store(arrays.d_sums + (place * 3 + k) * units + unit, Load(d_sums + k * units, lanes), lanes);
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_GRU_RESET_BEFORE_H_
