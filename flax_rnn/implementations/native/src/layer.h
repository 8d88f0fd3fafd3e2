// What the loops of all cells have in common: sizes, arrays, dropout masks, and the operands of a step's products.
//
// Arrays of whole sequences lie batch first, (B, T, N). A loop runs over all steps of some rows of the batch; rows need
// nothing of each other.

#ifndef FLAX_RNN_LAYER_H_
#define FLAX_RNN_LAYER_H_

#include "activations.h"
#include "panels.h"

namespace flax_rnn {

struct DropoutMasks {
  const float* values;  // (count, B, N)
  int64_t count;        // none, one for all gates, or one for each
  int64_t batch;

  // That of a gate (B, size), or nullptr.
  const float* Of(int64_t gate, int64_t size) const {
    return count == 0 ? nullptr : values + (count > 1 ? gate : 0) * batch * size;
  }

  // The mask of a gate, for all gates.
  DropoutMasks One(int64_t gate, int64_t size) const { return {Of(gate, size), std::min<int64_t>(count, 1), batch}; }
};

struct Layer {
  int64_t batch, steps, features, units;
  bool reverse;
  Activation activation, gate;
  DropoutMasks input_masks, recurrent_masks;
  const bool* mask;  // (B, T): which steps count; or nullptr

  int64_t Time(int64_t step) const { return reverse ? steps - 1 - step : step; }
  bool Masked(int64_t place) const { return mask != nullptr && !mask[place]; }
};

struct Weights {
  const float *kernel, *recurrent, *bias;  // (D, g H), (H, g H), (g H)
};

// With nullptr for what a cell does not have, and for what is not asked for.
struct ForwardArrays {
  const float *x, *h0, *c0;  // (B, T, D), (B, H), (B, H)
  float *h, *c;              // (B, H): the last carry
  float* outputs;            // (B, T, H): h of all steps
  float *gates, *extra;      // (B, T, g H), (B, T, H): what the cell's backward pass needs
};

struct BackwardArrays {
  const float *outputs, *gates, *extra;  // as the forward pass left them
  const float *h0, *c0;                  // (B, H)
  const float *d_h, *d_c, *d_outputs;    // of the last carry and of the outputs
  float* d_sums;                         // (B, T, g H), which may be `gates`: of the sums of products
  float *d_h0, *d_c0;                    // (B, H)
};

// Some rows of an array (B, size).
inline std::vector<float> CopyRows(const float* array, Range rows, int64_t size) {
  return std::vector<float>(array + rows.first * size, array + rows.last * size);
}

// Copies of rows (n, size), times the dropout mask of each gate, as the operand of a product.
class Operand {
 public:
  Operand(const DropoutMasks& masks, int64_t rows, int64_t size)
      : masks_(masks), rows_(rows), size_(size), values_(std::max<int64_t>(1, masks.count) * rows * size) {}

  // Takes some columns of row `row` at `from`, which has the mask of row `place` of the batch.
  void Set(int64_t row, const float* from, int64_t place, Range columns) {
    for (int64_t n = 0; n < std::max<int64_t>(1, masks_.count); ++n) {
      float* const to = values_.data() + (n * rows_ + row) * size_;
      if (masks_.count == 0) {
        std::copy(from + columns.first, from + columns.last, to + columns.first);
      } else {
        const float* const mask = masks_.values + (n * masks_.batch + place) * size_;
        for (int64_t k = columns.first; k < columns.last; ++k) to[k] = from[k] * mask[k];
      }
    }
  }

  // The rows from `row` on.
  Rows At(int64_t row) const { return {values_.data() + row * size_, size_, 1, masks_.count > 1 ? rows_ * size_ : 0}; }

 private:
  const DropoutMasks masks_;
  const int64_t rows_, size_;
  Buffer values_;
};

}  // namespace flax_rnn

#endif  // FLAX_RNN_LAYER_H_
