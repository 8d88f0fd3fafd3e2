// Matrices in the order in which the tiles of a product read them.
//
// A panel is what one tile reads: for each row of the matrix one vector for each column of the tile. The columns of a
// tile are the same kLanes units of several gates, so that whoever gets its sums has all gates of a unit at once; or,
// where there is one gate only, kWide times kLanes units of it.

#ifndef FLAX_RNN_PANELS_H_
#define FLAX_RNN_PANELS_H_

#include <algorithm>
#include <array>
#include <cstring>

#include "memory.h"
#include "product.h"

namespace flax_rnn {

// Which gates of a matrix (depth, total * units): `count` from `first` on, or, where that is 0, the first in wide
// tiles.
struct Gates {
  int total, first, count;
};

// So many floats stay in the second cache of a core.
constexpr int64_t kNearFloats = 400000;

// For no more rows of products, packing a matrix costs more than it saves, and it is read where it lies.
constexpr int64_t kFew = 10 * kRows<4>;

class Panels {
 public:
  // For products of so many rows. What would make vectors go beyond the end of a row of the matrix is packed, too.
  Panels(const float* matrix, int64_t depth, int64_t units, Gates gates, int64_t products)
      : matrix_(matrix + gates.first * units),
        depth_(depth),
        units_(units),
        row_(gates.total * units),
        wide_(gates.count == 0),
        columns_(wide_ ? kWide : gates.count),
        step_(wide_ ? kWide * kLanes : kLanes),
        count_((units + step_ - 1) / step_),
        packed_(products > kFew || units % step_ != 0),
        values_(packed_ ? count_ * depth * columns_ * kLanes : 0) {}

  int64_t count() const { return count_; }
  bool packed() const { return packed_; }
  bool near() const { return depth_ * row_ <= kNearFloats; }

  // The panels from `panel` on.
  Columns At(int64_t panel) const {
    if (!packed_) return {matrix_ + panel * step_, step_, row_, wide_ ? kLanes : units_};
    return {values_.data() + panel * depth_ * columns_ * kLanes, depth_ * columns_ * kLanes, columns_ * kLanes, kLanes};
  }

  void Pack(int64_t panel) {
    if (!packed_) return;
    float* to = values_.data() + panel * depth_ * columns_ * kLanes;
    for (int64_t k = 0; k < depth_; ++k)
      for (int64_t n = 0; n < columns_; ++n, to += kLanes) {
        const int64_t unit = panel * step_ + (wide_ ? n * kLanes : 0);
        Store(to, unit < units_ ? Load(matrix_ + k * row_ + unit + (wide_ ? 0 : n * units_), units_ - unit) : Vector{});
      }
  }

 private:
  const float* matrix_;
  int64_t depth_, units_, row_;
  bool wide_;
  int64_t columns_, step_, count_;
  bool packed_;
  Buffer values_;
};

// Of the transpose of a matrix (size, columns), in wide tiles; the columns are of gates with `units` each.
class TransposedPanels {
 public:
  TransposedPanels(const float* matrix, int64_t size, int64_t columns, int64_t units, bool packed)
      : matrix_(matrix),
        size_(size),
        columns_(columns),
        units_(units),
        count_(Count(size)),
        packed_(packed),
        values_(packed_ ? count_ * kSize * columns : 0) {}

  // How many panels a matrix of this size has.
  static int64_t Count(int64_t size) { return (size + kSize - 1) / kSize; }

  int64_t count() const { return count_; }
  int64_t size() const { return size_; }
  bool packed() const { return packed_; }

  // The rows of the matrix that some panels are made of, and one of them from `column` on.
  Range RowsOf(Range panels) const { return {panels.first * kSize, std::min(panels.last * kSize, size_)}; }
  const float* Row(int64_t row, int64_t column) const { return matrix_ + row * columns_ + column; }
  int64_t units() const { return units_; }

  // The panels from `panel` on, beginning with `column`.
  Columns At(int64_t panel, int64_t column) const {
    return {values_.data() + (panel * columns_ + column) * kSize, columns_ * kSize, kSize, kLanes};
  }

  void Pack(int64_t panel) {
    if (!packed_) return;
    float* const to = values_.data() + panel * columns_ * kSize;
    const float* const from = matrix_ + panel * kSize * columns_;
    const int64_t count = std::min<int64_t>(kSize, size_ - panel * kSize);
    if (count < kSize) std::fill_n(to, columns_ * kSize, 0.0f);
    for (int64_t first = 0; first < columns_; first += kLanes)  // in blocks that stay in the cache
      for (int64_t row = 0; row < count; ++row)
        for (int64_t k = first; k < std::min(first + kLanes, columns_); ++k)
          to[k * kSize + row] = from[row * columns_ + k];
  }

 private:
  static constexpr int kSize = kWide * kLanes;

  const float* matrix_;
  int64_t size_, columns_, units_, count_;
  bool packed_;
  Buffer values_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_PANELS_H_
