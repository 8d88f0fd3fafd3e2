// The backward pass over all steps: the gradients of the sums that enter the gates; those of weights and inputs follow
// from all of them at once, as large products.
//
// A step is the gradient of the cell's equations, by the threads that own units and rows; then  d_h^T = R d_sums^T,  to
// which each block of the cluster adds its share, from the sums of its own units, for the units of all: it tells them
// 4 bytes for a unit and a row, where the gradients of four gates would be 8 or 16. R stays in registers.

#ifndef FLAX_RNN_CUDA_BACKWARD_CUH_
#define FLAX_RNN_CUDA_BACKWARD_CUH_

#include "exchange.cuh"

namespace flax_rnn {

template <class E>
struct BackwardArguments {
  const E* values;          // (T, B, V H)
  const float* cells;       // (T, B, H)
  const E* outputs;         // (T, B, H)
  const E* recurrent;       // (H, G H)
  const u8 *mask, *resets;  // (T, B)
  const E* dropped;         // (G, B, H)
  const float *h0, *c0;     // (B, H)
  const E* d_outputs;       // (T, B, H)
  const float *d_h, *d_c;   // (B, H)
  E* d_sums;                // (T, B, S H)
  float *d_h0, *d_c0;       // (B, H)
  int steps, rows, flags;
};

// Where the numbers of a step are, among those of one step.
template <class S>
struct BackwardPlaces {
  bool there[S::kOwn];
  u32 row[S::kOwn], unit[S::kOwn], values[S::kOwn], sums[S::kOwn];

  FLAX_RNN_DEVICE BackwardPlaces(const Place<S>& place, int rows) {
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      there[own] = place.Row(own) < rows;
      row[own] = place.Readable(own, rows);
      unit[own] = row[own] * S::H + place.Unit(own);
      values[own] = row[own] * (S::kValues * S::H) + place.Unit(own);
      sums[own] = row[own] * (S::kSums * S::H) + place.Unit(own);
    }
  }
};

// What a step reads, as it comes from memory.
template <class S>
struct StepSaved {
  typename S::E values[S::kValues][S::kOwn], d_output[S::kOwn];
  u32 before[S::kOwn];  // the bits of c of an LSTM, or of h, ahead of the step
  u8 counts[S::kOwn], starts[S::kOwn];

  FLAX_RNN_DEVICE void Load(const BackwardArguments<typename S::E>& in, const BackwardPlaces<S>& places, int step) {
    typedef typename S::Cell Cell;
    const long long time = in.flags & kReverse ? in.steps - 1 - step : step;
    const long long previous = in.flags & kReverse ? time + 1 : time - 1;
    const typename S::E* const of_step = in.values + time * in.rows * (S::kValues * S::H);
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      const typename S::E* const from = of_step + places.values[own];
#pragma unroll
      for (int value = 0; value < Cell::kValues; value++) values[value][own] = from[value * S::H];
    }
    State(in, places, step ? previous : -1, before);
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) d_output[own] = 0, counts[own] = 1, starts[own] = 0;
    if (in.flags & kKeepOutputs) {
#pragma unroll
      for (int own = 0; own < S::kOwn; own++) d_output[own] = (in.d_outputs + time * in.rows * S::H)[places.unit[own]];
    }
    if (in.flags & kMasked) {
#pragma unroll
      for (int own = 0; own < S::kOwn; own++) counts[own] = (in.mask + time * in.rows)[places.row[own]];
    }
    if (in.flags & kResets) {
#pragma unroll
      for (int own = 0; own < S::kOwn; own++) starts[own] = (in.resets + time * in.rows)[places.row[own]];
    }
  }

  // c of an LSTM, or h, behind a step, or at first, where the time is -1.
  FLAX_RNN_DEVICE static void State(const BackwardArguments<typename S::E>& in, const BackwardPlaces<S>& places,
                                    long long time, u32 (&bits)[S::kOwn]) {
    const float* const wide = S::Cell::kHasCells ? time < 0 ? in.c0 : in.cells + time * in.rows * S::H : in.h0;
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      const u32 at = places.unit[own];
      bits[own] = S::Cell::kHasCells || time < 0 ? Bits(wide[at]) : Raw((in.outputs + time * in.rows * S::H)[at]);
    }
  }

  // What these bits are, at first or not.
  FLAX_RNN_DEVICE static float StateOf(u32 bits, bool first) {
    return S::Cell::kHasCells || first ? Float(bits) : FromRaw(bits, typename S::E());
  }
};

// What a step leaves behind in memory.
template <class S>
struct StepGradients {
  typename S::E d_sums[S::kSums][S::kOwn];

  FLAX_RNN_DEVICE void Store(const BackwardArguments<typename S::E>& in, const BackwardPlaces<S>& places,
                             int step) const {
    const long long first_row = (long long)(in.flags & kReverse ? in.steps - 1 - step : step) * in.rows;
    typename S::E* const of_step = in.d_sums + first_row * (S::kSums * S::H);
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      typename S::E* const to = of_step + places.sums[own];
#pragma unroll
      for (int sum = 0; sum < S::kSums; sum++)
        if (places.there[own]) to[sum * S::H] = d_sums[sum][own];
    }
  }
};

// R for the units of a warp, one row of tiles after the other, and the sums of the block, as the first operand.
template <class S>
struct BackwardWeights {
  u32 at[S::kBackTiles][S::kGates][S::kBackDepth][4];

  FLAX_RNN_DEVICE BackwardWeights(const typename S::E* recurrent, const Place<S>& place) {
#pragma unroll
    for (int tile = 0; tile < S::kBackTiles; tile++)
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++)
#pragma unroll
        for (int depth = 0; depth < S::kBackDepth; depth++)
#pragma unroll
          for (int r = 0; r < 4; r++) {
            const long long row = Number(tile) * 16 + place.g + 8 * (r & 1);
            const int column =
                gate * S::H + place.rank * S::kUnits + depth * S::kDepth + (place.q + 4 * (r >> 1)) * S::kPerWord;
            at[tile][gate][depth][r] = OperandWord(recurrent + row * S::kGates * S::H + column, 1);
          }
  }

  // Of a tile of 16 units among those of all blocks.
  FLAX_RNN_DEVICE static int Number(int tile) { return (Thread() >> 5) * S::kBackTiles + tile; }
};

// The dropout masks of the units of a warp, in the places of the products. They are in shared memory, where each thread
// has its own, since registers are full of weights.
template <class S>
struct BackwardMasks {
  static constexpr int kWords = 4 / S::kPerWord;
  u32* own;

  FLAX_RNN_DEVICE BackwardMasks(const BackwardArguments<typename S::E>& in, const Place<S>& place, u32* shared) {
    own = shared + place.lane * kWords;
    if constexpr (S::kDropped) {
      for (int tile = 0; tile < S::kBackTiles; tile++)
        for (int gate = 0; gate < S::kGates; gate++)
#pragma unroll
          for (int word = 0; word < kWords; word++) {
            u32 bits = 0;
#pragma unroll
            for (int e = 0; e < S::kPerWord; e++) {
              const int r = word * S::kPerWord + e, row = place.first_row + 2 * place.q + (r & 1);
              const int unit = BackwardWeights<S>::Number(tile) * 16 + place.g + 8 * (r >> 1);
              const long long from = ((long long)gate * in.rows + row) * S::H + unit;
              if (row < in.rows) bits |= Bits(Wide(in.dropped[from])) >> (S::kPerWord == 2 && e == 0 ? 16 : 0);
            }
            own[At(tile, gate) + word] = bits;
          }
    }
  }

  FLAX_RNN_DEVICE static int At(int tile, int gate) {
    return (BackwardWeights<S>::Number(tile) * S::kGates + gate) * 32 * kWords;
  }

  FLAX_RNN_DEVICE float Of(int tile, int gate, int r) const {
    const u32 bits = own[At(tile, gate) + r / S::kPerWord];
    if constexpr (S::kPerWord == 1) return Float(bits);
    return Float(r % 2 ? bits & 0xffff0000u : bits << 16);
  }
};

template <class S, int A, int R>
FLAX_RNN_DEVICE void Backward(const BackwardArguments<typename S::E>& in) {
  typedef typename S::E E;
  typedef typename S::Cell Cell;
  const Place<S> place;
  u32* const all_shown = SharedMemory();
  u32* const all_shares = all_shown + 2 * S::kGradients;
  u32* const all_masks = all_shares + 2 * S::kShares;
  const Exchange<S::C, S::kBackwardBytes> exchange(all_masks + S::kShareMasks);
  const BackwardWeights<S> weights(in.recurrent, place);
  const BackwardMasks<S> masks(in, place, all_masks);
  const BackwardPlaces<S> places(place, in.rows);
  StepSaved<S> next;
  next.Load(in, places, in.steps - 1);

  float d_h[S::kOwn], d_c[S::kOwn], after[S::kOwn];
  u32 last_state[S::kOwn];
  const long long last = in.flags & kReverse ? 0 : in.steps - 1;
  StepSaved<S>::State(in, places, last, last_state);
#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    d_h[own] = in.d_h[places.unit[own]];
    d_c[own] = Cell::kHasCells ? in.d_c[places.unit[own]] : 0.0f;
    after[own] = StepSaved<S>::StateOf(last_state[own], false);
  }
  exchange.Open();
  SyncCluster<S::C>();

  for (int step = in.steps - 1; step >= 0; step--) {
    const int number = in.steps - 1 - step;
    u32* const shown = all_shown + (number & 1) * S::kGradients;
    u32* const shares = all_shares + (number & 1) * S::kShares;
    const StepSaved<S> now = next;
    if (!S::kDropped && step) next.Load(in, places, step - 1);

    StepGradients<S> gradients;
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      float values[S::kValues], d_sums[S::kSums] = {};
#pragma unroll
      for (int value = 0; value < Cell::kValues; value++) values[value] = Wide(now.values[value][own]);
      const float before = StepSaved<S>::StateOf(now.before[own], !step);
      d_h[own] += Wide(now.d_output[own]);
      if (now.counts[own])
        Cell::template Back<A, R>(values, now.starts[own] ? 0.0f : before, after[own], d_h[own], d_c[own], d_sums);
      after[own] = before;

#pragma unroll
      for (int sum = 0; sum < S::kSums; sum++) gradients.d_sums[sum][own] = Narrow(d_sums[sum], E());
      u32* const to = shown + place.OwnRow(own) * S::kBackStride;
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++) {
        Put(to, gate * S::kUnits + place.OwnUnit(own), gradients.d_sums[Cell::RecurrentSum(gate)][own]);
      }
    }
    // No sooner, as registers are full.
    if (S::kDropped && step) next.Load(in, places, step - 1);
    if (S::C == 1) gradients.Store(in, places, step);  // as in the forward pass
    SyncBlock();

    const u32* const from = shown + place.g * S::kBackStride + place.q;
    float products[S::kBackTiles][4] = {};
    // A product waits for the one before that is added to the same sums. So several sums take turns: of tiles where
    // there are many, and else of gates; of two of them in a block alone, whose registers are full of weights.
    constexpr int kAtOnce = S::kBackTiles >= 4 ? 1 : S::C == 1 && S::kGates == 4 ? 2 : S::kGates;
#pragma unroll
    for (int first = 0; first < S::kGates; first += kAtOnce) {
      float sums[kAtOnce][S::kBackTiles][4] = {};
#pragma unroll
      for (int depth = 0; depth < S::kBackDepth; depth++)
#pragma unroll
        for (int gate = 0; gate < kAtOnce; gate++) {
          const u32* const place_of = from + (first + gate) * S::kUnits / S::kPerWord + depth * 8;
          const u32 d_sums[2] = {place_of[0], place_of[4]};
#pragma unroll
          for (int tile = 0; tile < S::kBackTiles; tile++)
            Multiply(sums[gate][tile], weights.at[tile][first + gate][depth], d_sums, E());
        }
#pragma unroll
      for (int gate = 0; gate < kAtOnce; gate++)
#pragma unroll
        for (int tile = 0; tile < S::kBackTiles; tile++)
#pragma unroll
          for (int r = 0; r < 4; r++) {
            const float dropped = S::kDropped ? masks.Of(tile, first + gate, r) : 1.0f;
            products[tile][r] += dropped * sums[gate][tile][r];
          }
    }
#pragma unroll
    for (int tile = 0; tile < S::kBackTiles; tile++) {
      const int tile_of_all = BackwardWeights<S>::Number(tile);
      Words words;
#pragma unroll
      for (int r = 0; r < 4; r++) words.at[r] = Bits(products[tile][r]);
      u32* const to = shares + ((place.rank * S::kGroups + tile_of_all % S::kGroups) * 32 + place.lane) * 4;
      exchange.Tell(to, tile_of_all / S::kGroups, words, number);
    }
    if (S::C > 1) gradients.Store(in, places, step);
    exchange.Await(number);

#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      float sum = d_h[own];
#pragma unroll
      for (int rank = 0; rank < S::C; rank++)
        sum += Float(shares[((rank * S::kGroups + place.group) * 32 + place.lane) * 4 + place.Part(own)]);
      d_h[own] = now.starts[own] ? 0.0f : sum;
      if (now.starts[own]) d_c[own] = 0.0f;
    }
  }

#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    if (!places.there[own]) continue;
    in.d_h0[places.unit[own]] = d_h[own];
    if (Cell::kHasCells) in.d_c0[places.unit[own]] = d_c[own];
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_BACKWARD_CUH_
