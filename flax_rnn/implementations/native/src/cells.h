// The cells that have kernels: what is added here, and to KERNELS of flax_rnn.implementations.native.kernels, is one
// more. A cell's struct has the loops `Forward` and `Backward` over all steps for some rows of the batch and some of
// the units, what the threads share that run the same rows as `Forwards` and `Backwards`, the matrices that `Forward`
// reads as `Pack`, and says how many blocks of H columns its arrays have:
//
//   kName            how Python calls it
//   kGates           of the weights
//   kSums            of the sums of products, and of the bias; the state's part of the last gate is the last sum
//   kSaved, kExtra   of what the backward pass needs beside h: the values of gates, and one more sequence or none
//   kCell            of c in the carry
//   kPart            how many units a thread has at least
//   kProductOfExtra  whether the last gate's product is with the extra sequence in place of h

#ifndef FLAX_RNN_CELLS_H_
#define FLAX_RNN_CELLS_H_

#include "gru.h"
#include "gru_reset_before.h"
#include "lstm.h"
#include "simple_rnn.h"

namespace flax_rnn {

template <typename... Cell>
struct List {
  // Calls function(Cell()) for the cell of this name; false if there is none.
  template <typename F>
  static bool Dispatch(std::string_view name, const F& function) {
    return ((name == Cell::kName && (function(Cell()), true)) || ...);
  }

  template <typename F>
  static void ForAll(const F& function) {
    (function(Cell()), ...);
  }
};

using Cells = List<Lstm, Gru, GruResetBefore, SimpleRnn>;

}  // namespace flax_rnn

#endif  // FLAX_RNN_CELLS_H_
