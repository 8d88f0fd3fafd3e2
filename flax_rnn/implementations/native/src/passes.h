// The passes of a layer, each divided among the threads of a pool: forward, backward through all steps, and the
// gradients of inputs and weights, which follow from those of the sums of products of all steps at once.

#ifndef FLAX_RNN_PASSES_H_
#define FLAX_RNN_PASSES_H_

#include "cells.h"
#include "division.h"

namespace flax_rnn {

// As the forward and the backward pass have left them, and where the gradients of the weights go.
struct WeightsGradientArrays {
  const float *d_sums, *x, *outputs, *extra, *h0;
  float *d_kernel, *d_recurrent, *d_bias;
};

template <typename Cell, typename Pool>
void Forward(Pool& pool, const Layer& layer, const Weights& weights, const ForwardArrays& arrays) {
  const int64_t columns = Cell::kGates * layer.units;
  const Work work{layer.steps, layer.batch, layer.units, columns, layer.features * columns, layer.units};
  const Division division = Divide(work, layer.units / Cell::kPart, pool.num_threads());
  typename Cell::Matrices panels = Cell::Pack(layer, weights, layer.batch * layer.steps);
  const auto pack = [&](int64_t panel) {
    for (Panels& matrix : panels)
      if (panel < matrix.count()) matrix.Pack(panel);
  };
  ForParts<typename Cell::Forwards>(
      pool, division, layer, arrays, panels[0].count(), pack, panels.back().count(),
      [&](auto& group, Range part, Barrier& barrier) { Cell::Forward(layer, panels, arrays, group, part, barrier); });
}

// As kFew, of a transposed matrix; what costs most of a far one is to read it, packed or not, at each step.
constexpr int64_t kFewTransposed = 8;

template <typename Cell, typename Pool>
void Backward(Pool& pool, const Layer& layer, const float* recurrent, const BackwardArrays& arrays) {
  const int64_t columns = Cell::kGates * layer.units;
  const Work work{layer.steps, layer.batch, columns, layer.units, 0, columns};
  const Division division = Divide(work, TransposedPanels::Count(layer.units), pool.num_threads());
  TransposedPanels panels(recurrent, layer.units, columns, layer.units,
                          layer.batch * layer.steps > (layer.units * columns > kNearFloats ? kFew : kFewTransposed));
  ForParts<typename Cell::Backwards>(
      pool, division, layer, arrays, panels.count(), [&](int64_t panel) { panels.Pack(panel); }, panels.count(),
      [&](auto& group, Range part, Barrier& barrier) { Cell::Backward(layer, panels, arrays, group, part, barrier); });
}

template <typename Cell, typename Pool>
void InputsGradient(Pool& pool, const Layer& layer, const float* kernel, const float* d_sums, float* d_x) {
  const int64_t rows = layer.batch * layer.steps, columns = Cell::kGates * layer.units,
                groups =
                    std::max<int64_t>(1, std::min(rows, Useful(pool.num_threads(), rows * columns * layer.features)));
  TransposedPanels panels(kernel, layer.features, columns, layer.units, rows > kFewTransposed);
  ForRows(
      pool, groups, panels.count(), [&](int64_t panel) { panels.Pack(panel); }, rows,
      [&](Range rows) {
        MultiplyTransposed<false>(panels, {0, panels.count()}, layer.input_masks, {Cell::kSums, 0, Cell::kGates},
                                  d_sums + rows.first * Cell::kSums * layer.units, rows, layer.steps,
                                  d_x + rows.first * layer.features);
      });
}

template <typename Cell, typename Pool>
void WeightsGradient(Pool& pool, const Layer& layer, const WeightsGradientArrays& arrays) {
  const int64_t features = layer.features, units = layer.units;
  if (layer.batch * layer.steps * units == 0) {  // nothing below would write them
    std::fill_n(arrays.d_kernel, features * Cell::kGates * units, 0.0f);
    std::fill_n(arrays.d_recurrent, units * Cell::kGates * units, 0.0f);
    std::fill_n(arrays.d_bias, Cell::kSums * units, 0.0f);
    return;
  }
  Weight inputs{{}, {}, arrays.d_kernel}, states{{}, {}, arrays.d_recurrent};
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    inputs.rows.push_back({arrays.x, nullptr, layer.input_masks.Of(gate, features), features});
    states.rows.push_back({arrays.outputs, arrays.h0, layer.recurrent_masks.Of(gate, units), units});
    inputs.from.push_back(gate);
    states.from.push_back(gate);
  }
  states.from.back() = Cell::kSums - 1;
  if (Cell::kProductOfExtra) {
    states.rows.back().values = arrays.extra;
    states.rows.back().before = nullptr;
  }
  const int64_t threads =
      Useful(pool.num_threads(), layer.batch * layer.steps * (features + units) * Cell::kGates * units);
  const WeightsGradients gradients(layer, {inputs, states}, Cell::kSums, arrays.d_sums, arrays.d_bias);
  ForEach(pool, 0, [](int64_t) {}, gradients.parts(threads), [&](int64_t part) { gradients.Compute(part, threads); });
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_PASSES_H_
