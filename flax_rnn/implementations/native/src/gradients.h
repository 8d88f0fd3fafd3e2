// The products of a backward pass: gradients of operands, with a transposed matrix, and gradients of weights.
//
// Each gate may have a dropout mask of its own, constant over time, which is why these are not products of whole
// matrices: masks come in where a row's product with one gate's block is known.

#ifndef FLAX_RNN_GRADIENTS_H_
#define FLAX_RNN_GRADIENTS_H_

#include <utility>

#include "layer.h"

namespace flax_rnn {

// Columns of to (rows, N) = sums (rows, total * H) @ panels, of some gates; or += where `Add`. Row r has the dropout
// mask of (first + r) / repeats. This is for a matrix that is not packed, by its rows.
template <bool Add>
inline void MultiplyByRows(const TransposedPanels& transposed, Range panels, const DropoutMasks& masks, Gates gates,
                           const float* sums, Range rows, int64_t repeats, float* to) {
  const int64_t units = transposed.units(), size = transposed.size();
  const int parts = masks.count > 1 ? gates.count : 1, depth = gates.count / parts * units;
  const Range columns = transposed.RowsOf(panels);
  for (int64_t place = columns.first; place < columns.last; ++place)
    for (int64_t row = 0; row < rows.size(); ++row) {
      float* const at = to + row * size + place;
      float total = Add ? *at : 0;
      for (int part = 0; part < parts; ++part) {
        const int64_t column = gates.first * units + part * depth;
        float product = Dot(sums + row * gates.total * units + column, transposed.Row(place, column), depth);
        if (masks.count > 0) product *= masks.Of(gates.first + part, size)[(rows.first + row) / repeats * size + place];
        total += product;
      }
      *at = total;
    }
}

// The same for any matrix, by panels if there are any.
template <bool Add>
inline void MultiplyTransposed(const TransposedPanels& transposed, Range panels, const DropoutMasks& masks, Gates gates,
                               const float* sums, Range rows, int64_t repeats, float* to) {
  if (!transposed.packed()) return MultiplyByRows<Add>(transposed, panels, masks, gates, sums, rows, repeats, to);
  const int64_t units = transposed.units(), size = transposed.size();
  const int parts = masks.count > 1 ? gates.count : 1, depth = gates.count / parts * units;
  ForTiles<kWide>(rows.size(), panels, [&](int64_t row, int64_t panel, auto tile) {
    constexpr int R = tile.kRows, P = tile.kPanels;
    for (int part = 0; part < parts; ++part) {
      const int64_t column = gates.first * units + part * depth;
      Vector products[P][R][kWide] = {};
      Columns block = transposed.At(panel, column);
      if (tile.index < kWide * kLanes / kCacheLine)  // a part of the panel that follows
        block.next = transposed.At(panel + P < panels.last ? panel + P : panels.first, column).values +
                     tile.index * depth * kCacheLine;
      Multiply(products, {sums + row * gates.total * units + column, gates.total * units}, depth, block);
      for (int r = 0; r < R; ++r)
        for (int n = 0; n < P * kWide; ++n) {
          const int64_t place = (panel * kWide + n) * kLanes, lanes = size - place;
          if (lanes <= 0) break;
          Vector product = products[n / kWide][r][n % kWide];
          if (masks.count > 0)
            product *=
                Load(masks.Of(gates.first + part, size) + (rows.first + row + r) / repeats * size + place, lanes);
          float* const at = to + (row + r) * size + place;
          Store(at, Add || part > 0 ? Load(at, lanes) + product : product, lanes);
        }
    }
  });
}

// What a gate's block of a weight was multiplied with: rows of `size` numbers at `values` (B, T, size), or, where
// `before` is given, those one step earlier, and (B, size) there ahead of the first; and the dropout mask (B, size) or
// nullptr.
struct Factor {
  const float* values;
  const float* before;
  const float* mask;
  int64_t size;

  bool operator!=(const Factor& other) const {
    return values != other.values || before != other.before || mask != other.mask;
  }
};

// One of the weights: for each gate its rows, and which gate of the sums belongs to it; and its gradient (N, columns *
// H).
struct Weight {
  std::vector<Factor> rows;
  std::vector<int> from;
  float* gradient;
};

// The gradients of weights, rows^T @ sums, and of the bias, the total of the sums (B, T, total * H).
//
// Steps are taken kSteps at a time, packed so that tiles read them in order; masks and the shift by a step are dealt
// with there. The sums are read once for all weights.
class WeightsGradients {
 public:
  WeightsGradients(const Layer& layer, std::vector<Weight> weights, int total, const float* sums, float* bias)
      : layer_(layer), weights_(std::move(weights)), total_(total), sums_(sums), bias_(bias) {}

  // Into how many parts this is divided for so many threads: of its columns first, since the sums are the largest, and
  // of its rows where there are not columns enough.
  int64_t parts(int64_t threads) const { return ColumnParts(threads) * RowParts(threads); }

  void Compute(int64_t part, int64_t threads) const {
    const int64_t columns = ColumnParts(threads), column = part % columns, row = part / columns;
    const int64_t first_block = Blocks() * column / columns, last_block = Blocks() * (column + 1) / columns;
    std::vector<Buffer> operands;
    for (const Weight& weight : weights_)
      operands.emplace_back((weight.rows[0].size / RowParts(threads) + kTall) * kSteps);
    Buffer panel(kSteps * kSize);
    const int64_t steps = layer_.batch * layer_.steps;
    for (int64_t step = 0; step < steps; step += kSteps) {
      const int64_t count = std::min(kSteps, steps - step);
      std::vector<const Factor*> packed(weights_.size());
      for (int64_t block = first_block; block < last_block; ++block) {
        int packed_from = -1;
        for (size_t index = 0; index < weights_.size(); ++index) {
          const Weight& weight = weights_[index];
          const Factor& rows = weight.rows[block / BlocksOfGate()];
          const int64_t first = rows.size * row / RowParts(threads), last = rows.size * (row + 1) / RowParts(threads);
          if (packed[index] == nullptr || rows != *packed[index])
            PackOperand(rows, first, last, step, count, operands[index]);
          packed[index] = &rows;
          const int from = weight.from[block / BlocksOfGate()];
          if (from != packed_from) {
            PackSums(from, block, step, count, panel);
            if (row == 0) AddToBias(from, block, count, panel, step > 0);
          }
          packed_from = from;
          for (int64_t tile = first; tile < last; tile += kTall) {
            Vector products[1][kTall][kWide] = {};
            Multiply(products, {operands[index].data() + (tile - first) * kSteps, 1, kTall}, count,
                     {panel.data(), 0, kSize, kLanes});
            Write(products[0], weight, tile, std::min<int64_t>(kTall, last - tile), block, step > 0);
          }
        }
      }
    }
  }

 private:
  static constexpr int64_t kSteps = 128;  // whose panel fits into the first cache
  static constexpr int64_t kSize = kWide * kLanes;
  static constexpr int kTall = kRows<kWide>;

  int64_t Columns() const { return weights_[0].rows.size(); }
  int64_t BlocksOfGate() const { return (layer_.units + kSize - 1) / kSize; }
  int64_t Blocks() const { return Columns() * BlocksOfGate(); }
  int64_t ColumnParts(int64_t threads) const { return std::min(threads, Blocks()); }
  int64_t RowParts(int64_t threads) const { return (threads + ColumnParts(threads) - 1) / ColumnParts(threads); }
  int64_t UnitOf(int64_t block) const { return block % BlocksOfGate() * kSize; }

  void PackOperand(const Factor& rows, int64_t first, int64_t last, int64_t step, int64_t count,
                   Buffer& operand) const {
    const int64_t start = layer_.reverse ? layer_.steps - 1 : 0, earlier = layer_.reverse ? rows.size : -rows.size;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t place = step + k, b = place / layer_.steps;
      const float* from = rows.values + place * rows.size;
      if (rows.before != nullptr) from = place % layer_.steps == start ? rows.before + b * rows.size : from + earlier;
      const float* const mask = rows.mask == nullptr ? nullptr : rows.mask + b * rows.size;
      for (int64_t row = first; row < last; row += kTall) {
        float* const to = operand.data() + (row - first) * kSteps + k * kTall;
        if (layer_.Masked(place))
          std::fill_n(to, kTall, 0.0f);  // and not what is there, which may be NaN
        else if (row + kTall <= last)
          std::memcpy(to, from + row, kTall * sizeof(float));
        else
          std::fill(std::copy(from + row, from + last, to), to + kTall, 0.0f);
        if (mask == nullptr) continue;
        for (int64_t n = 0; n < std::min<int64_t>(kTall, last - row); ++n) to[n] *= mask[row + n];
      }
    }
  }

  void PackSums(int from, int64_t block, int64_t step, int64_t count, Buffer& panel) const {
    const int64_t units = layer_.units;
    for (int64_t k = 0; k < count; ++k)
      for (int n = 0; n < kWide; ++n) {
        const int64_t unit = UnitOf(block) + n * kLanes;
        const float* const sums = sums_ + ((step + k) * total_ + from) * units + unit;
        Store(panel.data() + k * kSize + n * kLanes, unit < units ? Load(sums, units - unit) : Vector{});
      }
  }

  void AddToBias(int from, int64_t block, int64_t count, const Buffer& panel, bool add) const {
    Vector totals[kWide] = {};
    for (int64_t k = 0; k < count; ++k)
      for (int n = 0; n < kWide; ++n) totals[n] += Load(panel.data() + k * kSize + n * kLanes);
    WriteRow(totals, bias_ + from * layer_.units, block, add);
  }

  void Write(const Vector (&products)[kTall][kWide], const Weight& weight, int64_t first, int64_t count, int64_t block,
             bool add) const {
    for (int64_t r = 0; r < count; ++r) {
      const int64_t place = (first + r) * Columns() + block / BlocksOfGate();
      WriteRow(products[r], weight.gradient + place * layer_.units, block, add);
    }
  }

  void WriteRow(const Vector (&values)[kWide], float* to, int64_t block, bool add) const {
    for (int n = 0; n < kWide && UnitOf(block) + n * kLanes < layer_.units; ++n) {
      const int64_t unit = UnitOf(block) + n * kLanes, lanes = layer_.units - unit;
      Store(to + unit, add ? Load(to + unit, lanes) + values[n] : values[n], lanes);
    }
  }

  const Layer& layer_;
  const std::vector<Weight> weights_;
  const int total_;
  const float* const sums_;
  float* const bias_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_GRADIENTS_H_
