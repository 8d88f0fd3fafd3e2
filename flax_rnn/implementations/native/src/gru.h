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
  static constexpr int kPart = kLanes;
  static constexpr bool kProductOfExtra = false;

  using Matrices = std::array<Panels, 3>;

  static Matrices Pack(const Layer& layer, const Weights& weights, int64_t products) {
    return {Panels(weights.kernel, layer.features, layer.units, {3, 0, 3}, products),
            Panels(weights.recurrent, layer.units, layer.units, {3, 0, 3}, products),
            Panels(weights.bias, 1, layer.units, {4, 0, 4}, products)};
  }

  using Forwards = ForwardGroup;

  static void Forward(const Layer& layer, const Matrices& panels, const ForwardArrays& arrays, Forwards& group,
                      Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    Projection<3> projection(layer, arrays.x, panels[0], panels[2], group.rows, part);
    Product<3> product(panels[1], units, group.rows.size(), part);
    ForSteps(layer, arrays, group, UnitsOf(layer, part), barrier, [&](int64_t step, const Operand& state) {
      projection.Prepare(step);
      product.Compute(
          group.rows.size(), [&](int64_t row) { return state.At(row); },
          [&](auto& sums, int64_t row, int64_t panel, auto tile) {
            projection.Load(sums, step, row, panel);
            const Columns bias = panels[2].At(panel);
            for (int p = 0; p < tile.kPanels; ++p)
              for (int r = 0; r < tile.kRows; ++r) sums[p][r][2] = Load(bias.values + p * bias.panel + 3 * bias.column);
          },
          [&](const auto& sums, int64_t row, int64_t panel, auto tile) {
            ForVectors(tile, layer, step, group.rows.first + row, panel,
                       [&](int p, int r, int64_t place, int64_t unit) {
                         Finish(layer, arrays, sums[p][r], projection.At(step, row + r, panel + p)[2], place, unit,
                                &group.h[(row + r) * units + unit]);
                       });
          });
    });
  }

  struct Backwards : BackwardGroup {
    Backwards(const Layer& layer, const BackwardArrays& arrays, Range rows) : BackwardGroup(layer, arrays, rows, 3) {}
  };

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       Backwards& group, Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    const Range own = WideUnitsOf(layer, part);
    ForStepsBack(layer, arrays, group, own, [&](int64_t step, auto& d_sums) {
      ForPlaces(layer, step, group.rows, own, arrays.outputs, arrays.h0,
                [&](int64_t row, int64_t place, int64_t unit, const float* h_before) {
                  Differentiate(layer, arrays, place, unit, h_before, &group.d_h[row * units + unit],
                                &d_sums[row * 3 * units + unit]);
                });
      barrier.Wait();
      MultiplyTransposed<true>(transposed, part, layer.recurrent_masks, {3, 0, 3}, d_sums.data(), group.rows, 1,
                               group.d_h.data());
    });
  }

 private:
  static void Finish(const Layer& layer, const ForwardArrays& arrays, const Vector (&sums)[3], Vector from_input,
                     int64_t place, int64_t unit, float* state) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector z = Activate(layer.gate, sums[0]), r = Activate(layer.gate, sums[1]);
    const Vector n = Activate(layer.activation, from_input + r * sums[2]);
    Vector h = Load(state, lanes);
    if (!layer.Masked(place)) h = z * h + (1.0f - z) * n;
    Store(state, h, lanes);
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
