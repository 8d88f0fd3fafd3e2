// Who does what: a cluster of C blocks goes over all steps of 8 rows, each block for H / C units of them. A warp has 16
// units; kSplit warps share them, each with a part of the products, and then of the steps. tiles.py has the same sizes.

#ifndef FLAX_RNN_CUDA_SHAPE_CUH_
#define FLAX_RNN_CUDA_SHAPE_CUH_

#include "elements.cuh"

namespace flax_rnn {

constexpr int kRows = 8;

template <class Element_, class Cell_, int H_, int C_, int kSplit_, bool kDropped_>
struct Shape {
  typedef Element_ E;
  typedef Cell_ Cell;
  static constexpr int H = H_, C = C_, kSplit = kSplit_;
  static constexpr bool kDropped = kDropped_;
  static constexpr int kGates = Cell::kGates, kSums = Cell::kSums;
  static constexpr int kValues = Cell::kValues ? Cell::kValues : 1;  // there is no array of none
  static constexpr int kPerWord = Element<E>::kPerWord, kDepth = Element<E>::kDepth;

  static constexpr int kUnits = H / C, kGroups = kUnits / 16, kWarps = kGroups * kSplit, kThreads = 32 * kWarps;
  static constexpr int kOwn = 4 / kSplit;  // units and rows for which a thread does the step

  // Of each exchange in a cluster; see exchange.cuh.
  static constexpr int kCounts = C > 1 ? 4 : 0;

  // The forward pass has all of the state in shared memory, and its dropout masks of each gate. Four words more to a
  // row, and eight rows begin at other banks.
  static constexpr int kTiles = H / kDepth / kSplit, kStride = H / kPerWord + 4, kState = kRows * kStride;
  static constexpr int kStateMasks = kDropped ? kGates * kState : 0;
  static constexpr int kParts = kSplit > 1 ? kWarps * kGates * 4 * 32 : 0;
  static constexpr int kForwardWords = 2 * kState + kStateMasks + kParts + kCounts;
  static constexpr int kForwardBytes = kRows * H * sizeof(E);  // that a block is sent in a step

  // The backward pass has the gradients of the block's own sums there, and from every block its share of those of the
  // block's own units; and dropout masks.
  static constexpr int kBackTiles = H / 16 / kWarps, kBackDepth = kUnits / kDepth;
  static constexpr int kBackStride = kGates * kUnits / kPerWord + 4, kGradients = kRows * kBackStride;
  static constexpr int kShares = C * kGroups * 32 * 4;
  static constexpr int kShareMasks = kDropped ? H / 16 * kGates * 32 * 4 / kPerWord : 0;
  static constexpr int kBackwardWords = 2 * kGradients + 2 * kShares + kShareMasks + kCounts;
  static constexpr int kBackwardBytes = 4 * kShares;

  static_assert(H % (16 * C) == 0 && (H / kDepth) % kSplit == 0 && (H / 16) % kWarps == 0, "sizes of tiles.py");
};

// A thread's place: the products of a warp give lane 4 g + q the units g and g + 8 of rows 2 q and 2 q + 1.
template <class S>
struct Place {
  int lane, g, q, group, split, rank, first_row;

  FLAX_RNN_DEVICE Place() {
    const int thread = Thread(), warp = thread >> 5;
    lane = thread & 31, g = lane >> 2, q = lane & 3;
    group = warp % S::kGroups, split = warp / S::kGroups;
    rank = Rank<S::C>(), first_row = Tile<S::C>() * kRows;
  }

  // Of what the thread owns, by number.
  FLAX_RNN_DEVICE int Part(int own) const { return split * S::kOwn + own; }
  FLAX_RNN_DEVICE int OwnUnit(int own) const { return group * 16 + g + 8 * (Part(own) >> 1); }
  FLAX_RNN_DEVICE int Unit(int own) const { return rank * S::kUnits + OwnUnit(own); }
  FLAX_RNN_DEVICE int OwnRow(int own) const { return 2 * q + (Part(own) & 1); }
  FLAX_RNN_DEVICE int Row(int own) const { return first_row + OwnRow(own); }
  // Of the last tile some rows are not there. What reads goes to the last row in their place, and writes nothing.
  FLAX_RNN_DEVICE int Readable(int own, int rows) const { return Row(own) < rows ? Row(own) : rows - 1; }
};

// What flags say; see kernels.py.
enum Flag { kMasked = 1, kResets = 2, kReverse = 4, kKeepOutputs = 8, kKeepValues = 16 };

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_SHAPE_CUH_
