// Products of a few rows with panels of a matrix, whose sums stay in registers.

#ifndef FLAX_RNN_PRODUCT_H_
#define FLAX_RNN_PRODUCT_H_

#include <algorithm>
#include <type_traits>

#include "vector.h"

namespace flax_rnn {

// `first` to `last`, without the latter.
struct Range {
  int64_t first, last;

  int64_t size() const { return last - first; }
  // Part `index` of `count` of about one size.
  Range Part(int64_t index, int64_t count) const {
    return {first + size() * index / count, first + size() * (index + 1) / count};
  }
};

// Rows of a product: the element (r, k) is at values[r * row + k * column]; of gate n, n * gate behind it.
struct Rows {
  const float* values;
  int64_t row, column = 1, gate = 0;
};

// Panels of a matrix: column n of the element k of panel p is the vector at values[p * panel + k * row + n * column].
// Meanwhile a line of the cache is fetched for each k, from `next` on, unless that is nullptr.
struct Columns {
  const float* values;
  int64_t panel, row, column;
  const float* next = nullptr;
};

constexpr int64_t kCacheLine = 16;  // floats

// R rows by P panels; before it there have been `index` others of these panels.
template <int R, int P>
struct Tile {
  static constexpr int kRows = R, kPanels = P;
  int64_t index;
};

template <bool Shared, int P, int R, int N>
inline void MultiplyBy(Vector (&sums)[P][R][N], Rows rows, int64_t depth, Columns columns) {
  Vector local[P][R][N];  // its address is never taken, so the compiler keeps it in registers
  std::memcpy(&local, &sums, sizeof(sums));
  const float* operand = rows.values;
  const float* panel = columns.values;
  const float* next = columns.next == nullptr ? panel : columns.next;
  for (int64_t k = 0; k < depth; ++k, operand += rows.column, panel += columns.row, next += kCacheLine) {
    if constexpr (P == 1) __builtin_prefetch(next, 0, 2);  // with few rows memory has no time to spare
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if constexpr (Shared && R < N) {
        Vector values[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) values[r] = operand[r * rows.row] - Vector{};
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
          const Vector column = Load(panel + p * columns.panel + n * columns.column);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) local[p][r][n] += values[r] * column;
        }
      } else {
        Vector values[N];
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) values[n] = Load(panel + p * columns.panel + n * columns.column);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
          for (int n = 0; n < N; ++n)
            local[p][r][n] += operand[r * rows.row + (Shared ? 0 : n * rows.gate)] * values[n];
      }
    }
  }
  std::memcpy(&sums, &local, sizeof(sums));
}

// sums[p][r][n] += row r of gate n @ column n of panel p.
template <int P, int R, int N>
inline void Multiply(Vector (&sums)[P][R][N], Rows rows, int64_t depth, Columns columns) {
  if (rows.gate == 0)
    MultiplyBy<true>(sums, rows, depth, columns);
  else
    MultiplyBy<false>(sums, rows, depth, columns);
}

// The product of two rows.
inline float Dot(const float* a, const float* b, int64_t size) {
  constexpr int kParts = 4;
  Vector sums[kParts] = {};
  for (int64_t k = 0; k < size; k += kParts * kLanes)
    for (int n = 0; n < kParts; ++n)
      if (const int64_t at = k + n * kLanes; at < size) sums[n] += Load(a + at, size - at) * Load(b + at, size - at);
  const Vector total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = 0;
  for (int n = 0; n < kLanes; ++n) sum += total[n];
  return sum;
}

// The multipliers have something to do while a sum waits for its last addition.
constexpr int kBusy = 8;

// Calls function(row, panel, Tile<R, P>{index}) for `rows` rows and returns P, which is no more than `panels`.
template <int N, int R = kRows<N>, typename F>
inline int ForTile(int64_t rows, int64_t row, int64_t panel, int64_t panels, int64_t index, const F& function) {
  if constexpr (R > 1)
    if (rows < R) return ForTile<N, R - 1>(rows, row, panel, panels, index, function);
  constexpr int P = std::max(1, kBusy / (R * N));
  if (P > 1 && panels < P) {
    function(row, panel, Tile<R, 1>{index});
    return 1;
  }
  function(row, panel, Tile<R, P>{index});
  return P;
}

// Calls function(row, panel, tile) for tiles of N columns, so that they cover `rows` rows and these panels. A tile has
// more than one panel only where there are few rows.
template <int N, typename F>
inline void ForTiles(int64_t rows, Range panels, const F& function) {
  if (rows == 0) return;
  const int64_t tiles = (rows + kRows<N> - 1) / kRows<N>;
  for (int64_t panel = panels.first, done = 1; panel < panels.last; panel += done)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Range part = Range{0, rows}.Part(tile, tiles);
      done = ForTile<N>(part.size(), part.first, panel, panels.last - panel, tile, function);
    }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_PRODUCT_H_
