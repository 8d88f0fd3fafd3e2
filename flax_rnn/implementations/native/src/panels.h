// Matrices in the order in which the tiles of a product read them.
//
// A panel is what one tile reads: for each row of the matrix one vector for each column of the tile. The columns of a
// tile are the same kLanes units of several gates, so that whoever gets its sums has all gates of a unit at once; or,
// where there is one gate only, kWide times kLanes units of it.

#ifndef FLAX_RNN_PANELS_H_
#define FLAX_RNN_PANELS_H_

#include <algorithm>
#include <vector>

#include "vector.h"

namespace flax_rnn {

constexpr int kWide = 4;

// Of `gates` gates from `first` on of a matrix (depth, total * units), or, where `gates` is 0, of one in wide tiles.
class Panels {
 public:
  Panels(const float* matrix, int64_t depth, int64_t units, int total, int first, int gates)
      : matrix_(matrix + first * units),
        depth_(depth),
        units_(units),
        row_(total * units),
        wide_(gates == 0),
        columns_(gates == 0 ? kWide : gates),
        step_(gates == 0 ? kWide * kLanes : kLanes),
        count_((units + step_ - 1) / step_),
        values_(count_ * depth * columns_ * kLanes) {}

  int64_t count() const { return count_; }

  // The panel of the units from `unit` on.
  const float* at(int64_t unit) const { return values_.data() + unit / step_ * depth_ * columns_ * kLanes; }

  void Pack(int64_t panel) {
    float* to = values_.data() + panel * depth_ * columns_ * kLanes;
    for (int64_t k = 0; k < depth_; ++k)
      for (int64_t n = 0; n < columns_; ++n, to += kLanes) {
        const int64_t unit = panel * step_ + (wide_ ? n * kLanes : 0);
        if (unit < units_) Store(to, Load(matrix_ + k * row_ + unit + (wide_ ? 0 : n * units_), units_ - unit));
      }
  }

 private:
  const float* matrix_;
  int64_t depth_, units_, row_;
  bool wide_;
  int64_t columns_, step_, count_;
  std::vector<float> values_;
};

// Of the transpose of a matrix (size, columns), in wide tiles; the columns are of gates with `units` each.
class TransposedPanels {
 public:
  TransposedPanels(const float* matrix, int64_t size, int64_t columns, int64_t units)
      : matrix_(matrix),
        size_(size),
        columns_(columns),
        units_(units),
        count_((size + kSize - 1) / kSize),
        values_(count_ * kSize * columns) {}

  int64_t count() const { return count_; }
  int64_t size() const { return size_; }
  int64_t units() const { return units_; }

  // The panel of the rows from `row` on, beginning with `column`.
  const float* at(int64_t row, int64_t column) const {
    return values_.data() + (row / kSize * columns_ + column) * kSize;
  }

  void Pack(int64_t panel) {
    float* const to = values_.data() + panel * columns_ * kSize;
    const float* const from = matrix_ + panel * kSize * columns_;
    const int64_t count = std::min<int64_t>(kSize, size_ - panel * kSize);
    for (int64_t first = 0; first < columns_; first += kLanes)  // in blocks that stay in the cache
      for (int64_t row = 0; row < count; ++row)
        for (int64_t k = first; k < std::min(first + kLanes, columns_); ++k)
          to[k * kSize + row] = from[row * columns_ + k];
  }

 private:
  static constexpr int kSize = kWide * kLanes;

  const float* matrix_;
  int64_t size_, columns_, units_, count_;
  std::vector<float> values_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_PANELS_H_
