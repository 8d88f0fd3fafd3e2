// The loops of an LSTM: flax_rnn.LSTMCell has the equations. Gates are i, f, g, o; kept for the backward pass are their
// values and c of all steps.

#ifndef FLAX_RNN_LSTM_H_
#define FLAX_RNN_LSTM_H_

#include "steps.h"

namespace flax_rnn {

struct Lstm {
  static constexpr std::string_view kName = "lstm";
  static constexpr int kGates = 4, kSums = 4, kSaved = 4, kExtra = 1, kCell = 1;
  static constexpr int kPart = kLanes;
  static constexpr bool kProductOfExtra = false;

  using Matrices = std::array<Panels, 3>;

  static Matrices Pack(const Layer& layer, const Weights& weights, int64_t products) {
    return {Panels(weights.kernel, layer.features, layer.units, {4, 0, 4}, products),
            Panels(weights.recurrent, layer.units, layer.units, {4, 0, 4}, products),
            Panels(weights.bias, 1, layer.units, {4, 0, 4}, products)};
  }

  struct Forwards : ForwardGroup {
    Forwards(const Layer& layer, const ForwardArrays& arrays, Range rows)
        : ForwardGroup(layer, arrays, rows), c(CopyRows(arrays.c0, rows, layer.units)) {}

    std::vector<float> c;  // (rows, H)
  };

  static void Forward(const Layer& layer, const Matrices& panels, const ForwardArrays& arrays, Forwards& group,
                      Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    const Range own = UnitsOf(layer, part);
    Projection<4> projection(layer, arrays.x, panels[0], panels[2], group.rows, part);
    Product<4> product(panels[1], units, group.rows.size(), part);
    ForSteps(layer, arrays, group, own, barrier, [&](int64_t step, const Operand& state) {
      projection.Prepare(step);
      product.Compute(
          group.rows.size(), [&](int64_t row) { return state.At(row); },
          [&](auto& sums, int64_t row, int64_t panel, auto) { projection.Load(sums, step, row, panel); },
          [&](const auto& sums, int64_t row, int64_t panel, auto tile) {
            ForVectors(tile, layer, step, group.rows.first + row, panel,
                       [&](int p, int r, int64_t place, int64_t unit) {
                         const int64_t at = (row + r) * units + unit;
                         Finish(layer, arrays, sums[p][r], place, unit, &group.h[at], &group.c[at]);
                       });
          });
    });
    CopyColumns(group.c, arrays.c, group.rows, own, units);
  }

  struct Backwards : BackwardGroup {
    Backwards(const Layer& layer, const BackwardArrays& arrays, Range rows)
        : BackwardGroup(layer, arrays, rows, 4), d_c(CopyRows(arrays.d_c, rows, layer.units)) {}

    std::vector<float> d_c;  // (rows, H)
  };

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       Backwards& group, Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    const Range own = WideUnitsOf(layer, part);
    ForStepsBack(layer, arrays, group, own, [&](int64_t step, auto& d_sums) {
      ForPlaces(layer, step, group.rows, own, arrays.extra, arrays.c0,
                [&](int64_t row, int64_t place, int64_t unit, const float* c_before) {
                  const int64_t at = row * units + unit;
                  Differentiate(layer, arrays, place, unit, c_before, &group.d_h[at], &group.d_c[at],
                                &d_sums[row * 4 * units + unit]);
                });
      barrier.Wait();
      MultiplyTransposed<true>(transposed, part, layer.recurrent_masks, {4, 0, 4}, d_sums.data(), group.rows, 1,
                               group.d_h.data());
    });
    CopyColumns(group.d_c, arrays.d_c0, group.rows, own, units);
  }

 private:
  static void Finish(const Layer& layer, const ForwardArrays& arrays, const Vector (&sums)[4], int64_t place,
                     int64_t unit, float* state, float* carried) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector i = Activate(layer.gate, sums[0]), f = Activate(layer.gate, sums[1]);
    const Vector g = Activate(layer.activation, sums[2]), o = Activate(layer.gate, sums[3]);
    Vector c = f * Load(carried, lanes) + i * g;
    Vector h = o * Activate(layer.activation, c);
    if (layer.Masked(place)) {
      c = Load(carried, lanes);
      h = Load(state, lanes);
    }
    Store(carried, c, lanes);
    Store(state, h, lanes);
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
