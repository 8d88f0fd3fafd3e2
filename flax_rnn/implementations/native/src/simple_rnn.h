// The loops of a SimpleRNN: flax_rnn.SimpleRNNCell has the equation. Its backward pass needs the outputs only.

#ifndef FLAX_RNN_SIMPLE_RNN_H_
#define FLAX_RNN_SIMPLE_RNN_H_

#include "steps.h"

namespace flax_rnn {

struct SimpleRnn {
  static constexpr std::string_view kName = "simple_rnn";
  static constexpr int kGates = 1, kSums = 1, kSaved = 0, kExtra = 0, kCell = 0;
  static constexpr int kPart = kWide * kLanes;
  static constexpr bool kProductOfExtra = false;

  using Matrices = std::array<Panels, 3>;

  static Matrices Pack(const Layer& layer, const Weights& weights, int64_t products) {
    return {Panels(weights.kernel, layer.features, layer.units, {1, 0, 0}, products),
            Panels(weights.recurrent, layer.units, layer.units, {1, 0, 0}, products),
            Panels(weights.bias, 1, layer.units, {1, 0, 0}, products)};
  }

  using Forwards = ForwardGroup;

  static void Forward(const Layer& layer, const Matrices& panels, const ForwardArrays& arrays, Forwards& group,
                      Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    Projection<kWide> projection(layer, arrays.x, panels[0], panels[2], group.rows, part);
    Product<kWide> product(panels[1], units, group.rows.size(), part);
    ForSteps(layer, arrays, group, WideUnitsOf(layer, part), barrier, [&](int64_t step, const Operand& state) {
      projection.Prepare(step);
      product.Compute(
          group.rows.size(), [&](int64_t row) { return state.At(row); },
          [&](auto& sums, int64_t row, int64_t panel, auto) { projection.Load(sums, step, row, panel); },
          [&](const auto& sums, int64_t row, int64_t panel, auto tile) {
            ForWideVectors(tile, layer, step, group.rows.first + row, panel,
                           [&](int p, int r, int n, int64_t place, int64_t unit) {
                             float* const h = &group.h[(row + r) * units + unit];
                             const int64_t lanes = units - unit;
                             const Vector y =
                                 layer.Masked(place) ? Load(h, lanes) : Activate(layer.activation, sums[p][r][n]);
                             Store(h, y, lanes);
                             if (arrays.outputs != nullptr) Store(arrays.outputs + place * units + unit, y, lanes);
                           });
          });
    });
  }

  struct Backwards : BackwardGroup {
    Backwards(const Layer& layer, const BackwardArrays& arrays, Range rows) : BackwardGroup(layer, arrays, rows, 1) {}
  };

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       Backwards& group, Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    const Range own = WideUnitsOf(layer, part);
    ForStepsBack(layer, arrays, group, own, [&](int64_t step, auto& d_sums) {
      ForPlaces(layer, step, group.rows, own, arrays.outputs, arrays.h0,
                [&](int64_t row, int64_t place, int64_t unit, const float*) {
                  const int64_t at = row * units + unit, lanes = units - unit;
                  Vector d = Load(&group.d_h[at], lanes);
                  if (arrays.d_outputs != nullptr) d += Load(arrays.d_outputs + place * units + unit, lanes);
                  const Vector y = Load(arrays.outputs + place * units + unit, lanes);
                  const bool masked = layer.Masked(place);
                  const Vector d_sum = masked ? Vector{} : Gradient(layer.activation, y, d);
                  Store(&group.d_h[at], masked ? d : Vector{}, lanes);
                  Store(&d_sums[at], d_sum, lanes);
                  Store(arrays.d_sums + place * units + unit, d_sum, lanes);
                });
      barrier.Wait();
      MultiplyTransposed<true>(transposed, part, layer.recurrent_masks, {1, 0, 1}, d_sums.data(), group.rows, 1,
                               group.d_h.data());
    });
  }
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_SIMPLE_RNN_H_
