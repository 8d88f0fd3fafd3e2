// Products of rows with a matrix as a whole, tile by tile.

#ifndef FLAX_RNN_MULTIPLY_H_
#define FLAX_RNN_MULTIPLY_H_

#include "panels.h"

namespace flax_rnn {

// Up to `rows` rows @ some panels of a matrix (depth, ...), in N columns.
//
// A packed panel is read from its first row to its last, and meanwhile the next one is fetched. Of a large matrix that
// lies as it is, all panels of some rows are read before the next rows are, since its rows may be a page of memory
// apart; the sums are set aside in between.
template <int N>
class Product {
 public:
  Product(const Panels& matrix, int64_t depth, int64_t rows, Range panels)
      : matrix_(matrix),
        depth_(depth),
        panels_(panels),
        whole_(matrix.packed() || matrix.near()),
        aside_(whole_ ? 0 : rows * panels.size() * N * kLanes) {}

  // For each tile, start(sums, row, panel, tile) sets what the product is added to, and finish(sums, row, panel, tile)
  // takes the result. operand(row) are the rows from `row` on.
  template <typename Operand, typename Start, typename Finish>
  void Compute(int64_t rows, const Operand& operand, const Start& start, const Finish& finish) {
    const int64_t block = whole_ ? depth_ : kFewRows * std::min<int64_t>(kFewRows, 1 + rows / kRows<N>);
    int64_t first = 0, last;
    do {
      last = std::min(first + block, depth_);
      int64_t place = 0;
      ForTiles<N>(rows, panels_, [&](int64_t row, int64_t panel, auto tile) {
        Vector sums[tile.kPanels][tile.kRows][N];
        if (first == 0)
          start(sums, row, panel, tile);
        else
          std::memcpy(&sums, aside_.data() + place, sizeof(sums));
        Rows some = operand(row);
        some.values += first * some.column;
        Columns columns = matrix_.At(panel);
        columns.values += first * columns.row;
        columns.next = Next(panel + tile.kPanels, tile.index);
        Multiply(sums, some, last - first, columns);
        if (last == depth_)
          finish(sums, row, panel, tile);
        else
          std::memcpy(aside_.data() + place, &sums, sizeof(sums));
        place += sizeof(sums) / sizeof(float);
      });
      first = last;
    } while (last < depth_);
  }

 private:
  static constexpr int64_t kFewRows = 8;

  // What a tile fetches of the panel that follows: each one has a part of it.
  const float* Next(int64_t panel, int64_t index) const {
    constexpr int64_t kLines = N * kLanes / kCacheLine;
    if (!matrix_.packed() || index >= kLines) return nullptr;
    return matrix_.At(panel < panels_.last ? panel : panels_.first).values + index * depth_ * kCacheLine;
  }

  const Panels& matrix_;
  const int64_t depth_;
  const Range panels_;
  const bool whole_;
  Buffer aside_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_MULTIPLY_H_
