// Products of a few rows with a panel, whose sums stay in registers.

#ifndef FLAX_RNN_PRODUCT_H_
#define FLAX_RNN_PRODUCT_H_

#include <type_traits>

#include "vector.h"

namespace flax_rnn {

// Where the element (r, k) of a matrix is: at r * row + k * column.
struct Strides {
  int64_t row, column = 1;
};

// sums += operands @ panel. Column n is multiplied with the matrix (R, depth) at operands[n]; where `Shared`, all
// columns are with that at operands[0].
template <bool Shared, int R, int N>
inline void Multiply(Vector (&sums)[R][N], const float* const* operands, Strides strides, int64_t depth,
                     const float* panel) {
  Vector local[R][N];  // its address is never taken, so the compiler keeps it in registers
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) local[r][n] = sums[r][n];
  for (int64_t k = 0; k < depth; ++k) {
    Vector columns[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) columns[n] = Load(panel + (k * N + n) * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
        local[r][n] += operands[Shared ? 0 : n][r * strides.row + k * strides.column] * columns[n];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[r][n] = local[r][n];
}

template <int R = kRows, typename F>
inline void ForTile(int64_t rows, int64_t first, const F& function) {
  if constexpr (R > 0) {
    if (rows == R) return function(first, std::integral_constant<int, R>());
    ForTile<R - 1>(rows, first, function);
  }
}

// Calls function(first row, std::integral_constant<int, R>()) for tiles of at most kRows rows, all of about one size.
template <typename F>
inline void ForTiles(int64_t rows, const F& function) {
  const int64_t tiles = (rows + kRows - 1) / kRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = rows * tile / tiles, last = rows * (tile + 1) / tiles;
    ForTile(last - first, first, function);
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_PRODUCT_H_
