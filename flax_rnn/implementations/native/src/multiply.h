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
    if (N > 1 && whole_ && operand(0).gate != 0 && panels_.size() % kWide == 0)
      return ComputeByGates(rows, operand, start, finish);
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

  // The same where each gate has rows of its own: the columns of one gate of several panels share what is loaded of
  // the rows, as those of all gates of one panel do otherwise.
  template <typename Operand, typename Start, typename Finish>
  void ComputeByGates(int64_t rows, const Operand& operand, const Start& start, const Finish& finish) {
    ForTiles<kWide>(rows, {0, panels_.size() / kWide}, [&](int64_t row, int64_t group, auto tile) {
      constexpr int R = tile.kRows, P = tile.kPanels * kWide;
      const int64_t panel = panels_.first + group * kWide;
      const Columns all = matrix_.At(panel);
      Vector sums[P][R][N];
      start(sums, row, panel, Tile<R, P>{tile.index});
      for (int n = 0; n < N; ++n) {
        Vector gate[tile.kPanels][R][kWide];
        for (int p = 0; p < P; ++p)
          for (int r = 0; r < R; ++r) gate[p / kWide][r][p % kWide] = sums[p][r][n];
        Rows own = operand(row);
        own.values += n * own.gate;
        own.gate = 0;
        Multiply(gate, own, depth_, {all.values + n * all.column, kWide * all.panel, all.row, all.panel});
        for (int p = 0; p < P; ++p)
          for (int r = 0; r < R; ++r) sums[p][r][n] = gate[p / kWide][r][p % kWide];
      }
      finish(sums, row, panel, Tile<R, P>{tile.index});
    });
  }

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
