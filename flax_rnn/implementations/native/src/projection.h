// The products of a layer's inputs, for some steps ahead of the loop.

#ifndef FLAX_RNN_PROJECTION_H_
#define FLAX_RNN_PROJECTION_H_

#include <utility>

#include "layer.h"
#include "multiply.h"

namespace flax_rnn {

// bias + x @ kernel of some rows and panels, in N columns. With few rows a product has those of several steps, so that
// the kernel is read once for all of them.
template <int N>
class Projection {
 public:
  Projection(const Layer& layer, const float* x, const Panels& kernel, const Panels& bias, Range rows, Range panels)
      : layer_(layer),
        x_(x),
        bias_(bias),
        rows_(rows),
        panels_(panels),
        ahead_(std::min(layer.steps, StepsAhead(rows.size() * panels.size() * N * kLanes, rows.size()))),
        product_(kernel, layer.features, ahead_ == 1 ? rows.size() : ahead_, panels),
        masked_(layer.input_masks, layer.input_masks.count > 0 ? rows.size() * ahead_ : 0, layer.features),
        values_(ahead_ * rows.size() * panels.size() * N * kLanes) {}

  // Has to be called ahead of each step, in their order.
  void Prepare(int64_t step) {
    if (step % ahead_ != 0) return;
    const int64_t count = std::min(ahead_, layer_.steps - step), rows = rows_.size();
    if (layer_.input_masks.count > 0)
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t s = 0; s < count; ++s)
          masked_.Set(row * ahead_ + s, x_ + InputOf(row, step + s), rows_.first + row, {0, layer_.features});
    if (ahead_ == 1)
      Compute(step, 0, rows, layer_.steps * layer_.features);
    else
      for (int64_t row = 0; row < rows; ++row)
        Compute(step, row, count, layer_.reverse ? -layer_.features : layer_.features);
  }

  // The sums of a row and a panel; those of the rows that follow are behind them.
  const Vector* At(int64_t step, int64_t row, int64_t panel) const {
    return reinterpret_cast<const Vector*>(Place(step % ahead_, row, panel));
  }

  // The sums of a tile.
  template <int P, int R>
  void Load(Vector (&sums)[P][R][N], int64_t step, int64_t row, int64_t panel) const {
    for (int p = 0; p < P; ++p) std::memcpy(sums[p], At(step, row, panel + p), sizeof(sums[p]));
  }

 private:
  // As many as a part of a core's cache has room for, where a step has so many sums; or one, where its rows suffice for
  // whole tiles, and those of several steps would not.
  static int64_t StepsAhead(int64_t sums, int64_t rows) {
    constexpr int64_t kRoom = 1 << 17, kTiles = 2 * kRows<N>;
    const int64_t steps = kRoom / std::max<int64_t>(1, sums);
    return steps >= kTiles || rows < kTiles ? std::max(steps, kTiles) : 1;
  }

  // `count` products from that of `row` and `step` on: of further steps, or else of further rows, whose inputs are
  // `next` apart.
  void Compute(int64_t step, int64_t row, int64_t count, int64_t next) {
    product_.Compute(
        count,
        [&](int64_t first) {
          if (layer_.input_masks.count > 0) return masked_.At(row * ahead_ + first);
          return Rows{x_ + InputOf(row, step) + first * next, next};
        },
        [&](auto& sums, int64_t, int64_t panel, auto tile) {
          const Columns bias = bias_.At(panel);
          for (int p = 0; p < tile.kPanels; ++p)
            for (int r = 0; r < tile.kRows; ++r)
              for (int n = 0; n < N; ++n)
                sums[p][r][n] = flax_rnn::Load(bias.values + p * bias.panel + n * bias.column);
        },
        [&](const auto& sums, int64_t first, int64_t panel, auto tile) {
          for (int p = 0; p < tile.kPanels; ++p)
            for (int r = 0; r < tile.kRows; ++r)
              std::memcpy(ahead_ == 1 ? Place(0, first + r, panel + p) : Place(first + r, row, panel + p), sums[p][r],
                          sizeof(sums[p][r]));
        });
  }

  int64_t InputOf(int64_t row, int64_t step) const {
    return ((rows_.first + row) * layer_.steps + layer_.Time(step)) * layer_.features;
  }

  // Where the sums of one of the steps ahead are.
  const float* Place(int64_t step, int64_t row, int64_t panel) const {
    return values_.data() + (((panel - panels_.first) * ahead_ + step) * rows_.size() + row) * N * kLanes;
  }
  float* Place(int64_t step, int64_t row, int64_t panel) {
    return const_cast<float*>(std::as_const(*this).Place(step, row, panel));
  }

  const Layer& layer_;
  const float* const x_;
  const Panels& bias_;
  const Range rows_, panels_;
  const int64_t ahead_;
  Product<N> product_;
  Operand masked_;
  Buffer values_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_PROJECTION_H_
