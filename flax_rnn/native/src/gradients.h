// The products of a backward pass: gradients of operands, with a transposed matrix, and gradients of weights.
//
// Each gate may have a dropout mask of its own, constant over time, which is why these are not products of whole
// matrices: masks come in where a row's product with one gate's block is known.

#ifndef FLAX_RNN_GRADIENTS_H_
#define FLAX_RNN_GRADIENTS_H_

#include <utility>

#include "layer.h"

namespace flax_rnn {

// `count` gates from `first` on, of `total` in a row.
struct Gates {
  int first, count, total;
};

// to (rows, N) = sums (rows, total * H) @ panels, of some gates; or += where `Add`. Row r has the dropout mask of
// (first + r) / repeats.
template <bool Add>
inline void MultiplyTransposed(const TransposedPanels& panels, const DropoutMasks& masks, Gates gates,
                               const float* sums, int64_t first, int64_t rows, int64_t repeats, float* to) {
  const int64_t units = panels.units(), size = panels.size();
  const int parts = masks.count > 1 ? gates.count : 1, depth = gates.count / parts * units;
  for (int64_t wide = 0; wide < size; wide += kWide * kLanes)
    ForTiles(rows, [&](int64_t tile, auto tile_size) {
      constexpr int R = decltype(tile_size)::value;
      for (int part = 0; part < parts; ++part) {
        const int64_t column = gates.first * units + part * depth;
        const float* const operand = sums + tile * gates.total * units + column;
        Vector products[R][kWide] = {};
        Multiply<true>(products, &operand, {gates.total * units}, depth, panels.at(wide, column));
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < kWide && wide + n * kLanes < size; ++n) {
            const int64_t place = wide + n * kLanes, lanes = size - place;
            Vector product = products[r][n];
            if (masks.count > 0)
              product *= Load(masks.Of(gates.first + part, size) + (first + tile + r) / repeats * size + place, lanes);
            float* const at = to + (tile + r) * size + place;
            Store(at, Add || part > 0 ? Load(at, lanes) + product : product, lanes);
          }
      }
    });
}

// What a gate's block of a weight was multiplied with: rows of `size` numbers at `values` (B, T, size), or, where
// `before` is given, those one step earlier, and (B, size) there ahead of the first; and the dropout mask (B, size) or
// nullptr.
struct Rows {
  const float* values;
  const float* before;
  const float* mask;
  int64_t size;

  bool operator!=(const Rows& other) const {
    return values != other.values || before != other.before || mask != other.mask;
  }
};

// The gradient (size, columns * H) of a weight, rows^T @ sums: `rows` has one entry for each gate, `from` says which
// gate of the `total` in the sums belongs to it.
//
// Steps are taken kSteps at a time, packed so that tiles read them in order; masks and the shift by a step are dealt
// with there.
class WeightGradient {
 public:
  WeightGradient(const Layer& layer, std::vector<Rows> rows, std::vector<int> from, int total, const float* sums,
                 float* gradient)
      : layer_(layer),
        rows_(std::move(rows)),
        from_(std::move(from)),
        total_(total),
        sums_(sums),
        gradient_(gradient) {}

  // Into how many parts this is divided for so many threads: of its rows first, as each part packs its own, and of its
  // columns where there are not rows enough.
  int64_t parts(int64_t threads) const { return RowParts(threads) * ColumnParts(threads); }

  void Compute(int64_t part, int64_t threads) const {
    const int64_t row = part % RowParts(threads), column = part / RowParts(threads), size = rows_[0].size;
    Compute(size * row / RowParts(threads), size * (row + 1) / RowParts(threads),
            Blocks() * column / ColumnParts(threads), Blocks() * (column + 1) / ColumnParts(threads));
  }

 private:
  static constexpr int64_t kSteps = 128;  // whose panel fits into the first cache

  // Wide tiles.
  int64_t BlocksOfGate() const { return (layer_.units + kWide * kLanes - 1) / (kWide * kLanes); }
  int64_t Blocks() const { return rows_.size() * BlocksOfGate(); }

  int64_t RowParts(int64_t threads) const { return std::min(threads, rows_[0].size / 64 + 1); }
  int64_t ColumnParts(int64_t threads) const {
    return std::min(Blocks(), (threads + RowParts(threads) - 1) / RowParts(threads));
  }

  // Rows `first` to `last` of the gradient, of some blocks of its columns.
  void Compute(int64_t first, int64_t last, int64_t first_block, int64_t last_block) const {
    const int64_t tiles = (last - first + kRows - 1) / kRows, steps = layer_.batch * layer_.steps;
    std::vector<float> operand(tiles * kSteps * kRows), panel(kSteps * kWide * kLanes);
    for (int64_t step = 0; step < steps; step += kSteps) {
      const int64_t count = std::min(kSteps, steps - step);
      const Rows* packed = nullptr;
      for (int64_t block = first_block; block < last_block; ++block) {
        const Rows& rows = rows_[block / BlocksOfGate()];
        if (packed == nullptr || rows != *packed) PackOperand(rows, first, last, step, count, operand);
        packed = &rows;
        PackSums(block, step, count, panel);
        for (int64_t tile = 0; tile < tiles; ++tile) {
          Vector products[kRows][kWide] = {};
          const float* const at = &operand[tile * kSteps * kRows];
          Multiply<true>(products, &at, {1, kRows}, count, panel.data());
          Write(products, first + tile * kRows, std::min(last - first - tile * kRows, int64_t{kRows}), block, step > 0);
        }
      }
    }
  }

  void PackOperand(const Rows& rows, int64_t first, int64_t last, int64_t step, int64_t count,
                   std::vector<float>& operand) const {
    const int64_t start = layer_.reverse ? layer_.steps - 1 : 0, earlier = layer_.reverse ? rows.size : -rows.size;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t place = step + k, b = place / layer_.steps;
      const float* from = rows.values + place * rows.size;
      if (rows.before != nullptr) from = place % layer_.steps == start ? rows.before + b * rows.size : from + earlier;
      const float* const mask = rows.mask == nullptr ? nullptr : rows.mask + b * rows.size;
      for (int64_t row = first; row < last; row += kRows) {
        float* const to = &operand[((row - first) * kSteps) + k * kRows];
        if (layer_.Masked(place))
          std::fill_n(to, kRows, 0.0f);  // and not what is there, which may be NaN
        else if (row + kRows <= last)
          std::memcpy(to, from + row, kRows * sizeof(float));
        else
          std::copy(from + row, from + last, to);
        if (mask == nullptr) continue;
        for (int64_t n = 0; n < std::min<int64_t>(kRows, last - row); ++n) to[n] *= mask[row + n];
      }
    }
  }

  void PackSums(int64_t block, int64_t step, int64_t count, std::vector<float>& panel) const {
    const int64_t gate = block / BlocksOfGate(), wide = block % BlocksOfGate() * kWide * kLanes;
    const int64_t units = layer_.units;
    const float* const from = sums_ + (step * total_ + from_[gate]) * units;
    for (int64_t k = 0; k < count; ++k)
      for (int n = 0; n < kWide && wide + n * kLanes < units; ++n) {
        const int64_t unit = wide + n * kLanes;
        Store(&panel[(k * kWide + n) * kLanes], Load(from + k * total_ * units + unit, units - unit));
      }
  }

  void Write(const Vector (&products)[kRows][kWide], int64_t first, int64_t count, int64_t block, bool add) const {
    const int64_t gate = block / BlocksOfGate(), wide = block % BlocksOfGate() * kWide * kLanes;
    const int64_t units = layer_.units, columns = rows_.size();
    for (int64_t r = 0; r < count; ++r)
      for (int n = 0; n < kWide && wide + n * kLanes < units; ++n) {
        const int64_t unit = wide + n * kLanes, lanes = units - unit;
        float* const to = gradient_ + ((first + r) * columns + gate) * units + unit;
        Store(to, add ? Load(to, lanes) + products[r][n] : products[r][n], lanes);
      }
  }

  const Layer& layer_;
  const std::vector<Rows> rows_;
  const std::vector<int> from_;
  const int total_;
  const float* const sums_;
  float* const gradient_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_GRADIENTS_H_
