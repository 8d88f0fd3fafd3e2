// The loops of a GRU that resets before the product: flax_rnn.GRUCell has the equations. A step is in two halves, since
// n needs r of all units. Gates are z, r, n; kept for the backward pass are their values and r * h of all steps.

#ifndef FLAX_RNN_GRU_RESET_BEFORE_H_
#define FLAX_RNN_GRU_RESET_BEFORE_H_

#include "steps.h"

namespace flax_rnn {

struct GruResetBefore {
  static constexpr std::string_view kName = "gru_reset_before";
  static constexpr int kGates = 3, kSums = 3, kSaved = 3, kExtra = 1, kCell = 0;
  static constexpr int kPart = kWide * kLanes;
  static constexpr bool kProductOfExtra = true;

  using Matrices = std::array<Panels, 4>;

  static Matrices Pack(const Layer& layer, const Weights& weights, int64_t products) {
    return {Panels(weights.kernel, layer.features, layer.units, {3, 0, 3}, products),
            Panels(weights.recurrent, layer.units, layer.units, {3, 0, 2}, products),
            Panels(weights.bias, 1, layer.units, {3, 0, 3}, products),
            Panels(weights.recurrent, layer.units, layer.units, {3, 2, 0}, products)};
  }

  struct Forwards : ForwardGroup {
    Forwards(const Layer& layer, const ForwardArrays& arrays, Range rows)
        : ForwardGroup(layer, arrays, rows),
          z(h.size()),
          n(h.size()),
          reset(h.size()),
          reset_state(layer.recurrent_masks.One(2, layer.units), rows.size(), layer.units) {}

    std::vector<float> z, n, reset;  // (rows, H): of the first half, of n the inputs' part
    Operand reset_state;             // of the product with r * h
  };

  static void Forward(const Layer& layer, const Matrices& panels, const ForwardArrays& arrays, Forwards& group,
                      Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    const Range own = WideUnitsOf(layer, part), narrow = {part.first * kWide, (own.last + kLanes - 1) / kLanes};
    Projection<3> projection(layer, arrays.x, panels[0], panels[2], group.rows, narrow);
    Product<2> gates_product(panels[1], units, group.rows.size(), narrow);
    Product<kWide> product(panels[3], units, group.rows.size(), part);
    ForSteps(layer, arrays, group, own, barrier, [&](int64_t step, const Operand& state) {
      projection.Prepare(step);
      gates_product.Compute(
          group.rows.size(), [&](int64_t row) { return state.At(row); },
          [&](auto& gates, int64_t row, int64_t panel, auto tile) {
            for (int p = 0; p < tile.kPanels; ++p)
              for (int r = 0; r < tile.kRows; ++r)
                std::memcpy(gates[p][r], projection.At(step, row + r, panel + p), sizeof(gates[p][r]));
          },
          [&](const auto& gates, int64_t row, int64_t panel, auto tile) {
            ForVectors(tile, layer, step, group.rows.first + row, panel,
                       [&](int p, int r, int64_t place, int64_t unit) {
                         const int64_t at = (row + r) * units + unit;
                         StartReset(layer, arrays, gates[p][r], projection.At(step, row + r, panel + p)[2], place, unit,
                                    &group, at);
                       });
          });
      SetColumns(group.reset_state, group.reset, group.rows, own, units);
      barrier.Wait();
      product.Compute(
          group.rows.size(), [&](int64_t row) { return group.reset_state.At(row); },
          [&](auto& sums, int64_t, int64_t, auto) { std::memset(&sums, 0, sizeof(sums)); },
          [&](const auto& sums, int64_t row, int64_t panel, auto tile) {
            ForWideVectors(tile, layer, step, group.rows.first + row, panel,
                           [&](int p, int r, int n, int64_t place, int64_t unit) {
                             const int64_t at = (row + r) * units + unit;
                             Finish(layer, arrays, sums[p][r][n] + Load(&group.n[at], units - unit), place, unit,
                                    &group.z[at], &group.h[at]);
                           });
          });
    });
  }

  struct Backwards : BackwardGroup {
    Backwards(const Layer& layer, const BackwardArrays& arrays, Range rows)
        : BackwardGroup(layer, arrays, rows, 3), d_reset(d_h.size()) {}

    std::vector<float> d_reset;  // (rows, H)
  };

  static void Backward(const Layer& layer, const TransposedPanels& transposed, const BackwardArrays& arrays,
                       Backwards& group, Range part, Barrier& barrier) {
    const int64_t units = layer.units;
    const Range own = WideUnitsOf(layer, part);
    ForStepsBack(layer, arrays, group, own, [&](int64_t step, auto& d_sums) {
      const auto differentiate = [&](auto half) {
        ForPlaces(layer, step, group.rows, own, arrays.outputs, arrays.h0,
                  [&](int64_t row, int64_t place, int64_t unit, const float* h_before) {
                    const int64_t at = row * units + unit;
                    half(layer, arrays, place, unit, h_before, &group.d_h[at], &group.d_reset[at],
                         &d_sums[row * 3 * units + unit]);
                  });
        barrier.Wait();
      };
      differentiate(DifferentiateOutput);
      MultiplyTransposed<true>(transposed, part, layer.recurrent_masks, {3, 2, 1}, d_sums.data(), group.rows, 1,
                               group.d_reset.data());
      differentiate(DifferentiateReset);
      MultiplyTransposed<true>(transposed, part, layer.recurrent_masks, {3, 0, 2}, d_sums.data(), group.rows, 1,
                               group.d_h.data());
    });
  }

 private:
  // The gates, and r * h.
  static void StartReset(const Layer& layer, const ForwardArrays& arrays, const Vector (&sums)[2], Vector from_input,
                         int64_t place, int64_t unit, Forwards* group, int64_t at) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector z = Activate(layer.gate, sums[0]), open = Activate(layer.gate, sums[1]);
    const Vector kept = open * Load(&group->h[at], lanes);
    Store(&group->z[at], z, lanes);
    Store(&group->n[at], from_input, lanes);
    Store(&group->reset[at], kept, lanes);
    if (arrays.gates == nullptr) return;
    Store(arrays.extra + place * units + unit, kept, lanes);
    Store(arrays.gates + place * 3 * units + unit, z, lanes);
    Store(arrays.gates + place * 3 * units + unit + units, open, lanes);
  }

  static void Finish(const Layer& layer, const ForwardArrays& arrays, Vector sum, int64_t place, int64_t unit,
                     const float* update, float* state) {
    const int64_t units = layer.units, lanes = units - unit;
    const Vector n = Activate(layer.activation, sum), z = Load(update, lanes);
    Vector h = Load(state, lanes);
    if (!layer.Masked(place)) h = z * h + (1.0f - z) * n;
    Store(state, h, lanes);
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
