// The skeleton of a cell's loops over the steps of some rows of the batch.
//
// A group of rows is run by one thread, or by several, of which each has some of the units. What threads read of one
// another, h or the gradients of sums, lies in two places, for even and for odd steps, so that they have to wait for
// one another but once between two products.

#ifndef FLAX_RNN_STEPS_H_
#define FLAX_RNN_STEPS_H_

#include "gradients.h"
#include "projection.h"
#include "threads.h"

namespace flax_rnn {

// What the threads share that go forward through some rows of the batch.
struct ForwardGroup {
  ForwardGroup(const Layer& layer, const ForwardArrays& arrays, Range rows)
      : rows(rows),
        h(CopyRows(arrays.h0, rows, layer.units)),
        states{{layer.recurrent_masks, rows.size(), layer.units}, {layer.recurrent_masks, rows.size(), layer.units}} {}

  const Range rows;
  std::vector<float> h;  // (rows, H)
  Operand states[2];     // of the products with h
};

// The units of some panels, narrow or wide.
inline Range UnitsOf(const Layer& layer, Range panels, int64_t step = kLanes) {
  return {panels.first * step, std::min(panels.last * step, layer.units)};
}
inline Range WideUnitsOf(const Layer& layer, Range panels) { return UnitsOf(layer, panels, kWide * kLanes); }

// Copies some columns of rows (rows, H) to where they belong in an array (B, H).
inline void CopyColumns(const std::vector<float>& from, float* to, Range rows, Range columns, int64_t units) {
  for (int64_t row = 0; row < rows.size(); ++row)
    std::copy_n(from.data() + row * units + columns.first, columns.size(),
                to + (rows.first + row) * units + columns.first);
}

// Sets some columns of an operand to those of values (rows, H).
inline void SetColumns(Operand& operand, const std::vector<float>& values, Range rows, Range columns, int64_t units) {
  for (int64_t row = 0; row < rows.size(); ++row)
    operand.Set(row, values.data() + row * units, rows.first + row, columns);
}

// Calls body(step, state) for each step, with h as an operand; it has to turn these units of group.h into those after
// the step.
template <typename Body>
void ForSteps(const Layer& layer, const ForwardArrays& arrays, ForwardGroup& group, Range units, Barrier& barrier,
              const Body& body) {
  for (int64_t step = 0; step < layer.steps; ++step) {
    Operand& state = group.states[step % 2];
    SetColumns(state, group.h, group.rows, units, layer.units);
    barrier.Wait();
    body(step, state);
  }
  CopyColumns(group.h, arrays.h, group.rows, units, layer.units);
}

// Calls function(p, r, place, unit) for each panel and row of a tile that begins there: the units from `unit` on of a
// place in (B, T).
template <typename T, typename F>
void ForVectors(T, const Layer& layer, int64_t step, int64_t row, int64_t panel, const F& function) {
  for (int p = 0; p < T::kPanels; ++p)
    for (int r = 0; r < T::kRows; ++r) function(p, r, (row + r) * layer.steps + layer.Time(step), (panel + p) * kLanes);
}

// The same of wide panels: calls function(p, r, n, place, unit), for units that there are.
template <typename T, typename F>
void ForWideVectors(T tile, const Layer& layer, int64_t step, int64_t row, int64_t panel, const F& function) {
  ForVectors(tile, layer, step, row, 0, [&](int p, int r, int64_t place, int64_t) {
    for (int n = 0; n < kWide; ++n) {
      const int64_t unit = ((panel + p) * kWide + n) * kLanes;
      if (unit < layer.units) function(p, r, n, place, unit);
    }
  });
}

// What the threads share that go backward, with G gates.
struct BackwardGroup {
  BackwardGroup(const Layer& layer, const BackwardArrays& arrays, Range rows, int gates)
      : rows(rows),
        d_h(CopyRows(arrays.d_h, rows, layer.units)),
        d_sums{std::vector<float>(rows.size() * gates * layer.units), std::vector<float>(d_sums[0].size())} {}

  const Range rows;
  std::vector<float> d_h;        // (rows, H)
  std::vector<float> d_sums[2];  // (rows, G H)
};

// Calls body(step, d_sums) for each step from the last to the first; it has to turn these units of group.d_h, the
// gradient of h after the step, into that ahead of it.
template <typename Body>
void ForStepsBack(const Layer& layer, const BackwardArrays& arrays, BackwardGroup& group, Range units,
                  const Body& body) {
  for (int64_t step = layer.steps - 1; step >= 0; --step) body(step, group.d_sums[step % 2]);
  CopyColumns(group.d_h, arrays.d_h0, group.rows, units, layer.units);
}

// Calls function(row, place, unit, before) for each row and vector of units of a step; `before` is the place of these
// units one step earlier in `sequence` (B, T, H), or in `initial` (B, H).
template <typename F>
void ForPlaces(const Layer& layer, int64_t step, Range rows, Range part, const float* sequence, const float* initial,
               const F& function) {
  const int64_t units = layer.units, earlier = layer.reverse ? units : -units;
  for (int64_t row = 0; row < rows.size(); ++row) {
    const int64_t place = (rows.first + row) * layer.steps + layer.Time(step);
    const float* const before = step > 0 ? sequence + place * units + earlier : initial + (rows.first + row) * units;
    for (int64_t unit = part.first; unit < part.last; unit += kLanes) function(row, place, unit, before + unit);
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_STEPS_H_
