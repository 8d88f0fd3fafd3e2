// The forward pass over all steps, in one kernel that has the recurrent weights in registers.
//
// A step is  sums^T = R^T h^T + x^T,  as products of tensor cores whose first operand R^T never moves; then the cell's
// equations, by threads that keep their part of h and c in registers; then the new h goes to all blocks of the cluster,
// which wait for each other once a step. The inputs of the next step are on their way meanwhile.

#ifndef FLAX_RNN_CUDA_FORWARD_CUH_
#define FLAX_RNN_CUDA_FORWARD_CUH_

#include "exchange.cuh"

namespace flax_rnn {

template <class E>
struct ForwardArguments {
  const E* x;               // (T, B, G H), with the bias
  const u8 *mask, *resets;  // (T, B)
  const E* recurrent;       // (H, G H)
  const float* bias;        // (H), of the state's part of a GRU's n
  const E* dropped;         // (G, B, H)
  const float *h0, *c0;     // (B, H)
  E *outputs, *values;      // (T, B, H), (T, B, V H)
  float *cells, *h, *c;     // (T, B, H), (B, H), (B, H)
  int steps, rows, flags;
};

// Where the numbers of a step are, among those of one step: offsets of 32 bits, since those of 64 take most of a step.
template <class S>
struct ForwardPlaces {
  bool there[S::kOwn];
  u32 row[S::kOwn], unit[S::kOwn];

  // Of what has so many numbers for each unit.
  FLAX_RNN_DEVICE u32 Of(int own, int many) const { return unit[own] + row[own] * ((many - 1) * S::H); }

  FLAX_RNN_DEVICE ForwardPlaces(const Place<S>& place, int rows) {
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      there[own] = place.Row(own) < rows;
      row[own] = place.Readable(own, rows);
      unit[own] = row[own] * S::H + place.Unit(own);
    }
  }
};

// What a step reads.
template <class S>
struct StepInputs {
  typename S::E x[S::kGates][S::kOwn];
  u8 counts[S::kOwn], starts_next[S::kOwn];  // whether the step is not masked, and whether the next one is a reset

  FLAX_RNN_DEVICE void Load(const ForwardArguments<typename S::E>& in, const ForwardPlaces<S>& places, int step) {
    const long long time = in.flags & kReverse ? in.steps - 1 - step : step;
    const long long next = in.flags & kReverse ? time - 1 : time + 1;
    const typename S::E* const of_step = in.x + time * in.rows * (S::kGates * S::H);
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      const typename S::E* const from = of_step + places.Of(own, S::kGates);
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++) x[gate][own] = from[gate * S::H];
    }
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) counts[own] = 1, starts_next[own] = 0;
    if (in.flags & kMasked) {
#pragma unroll
      for (int own = 0; own < S::kOwn; own++) counts[own] = (in.mask + time * in.rows)[places.row[own]];
    }
    if ((in.flags & kResets) && step + 1 < in.steps) {
#pragma unroll
      for (int own = 0; own < S::kOwn; own++) starts_next[own] = (in.resets + next * in.rows)[places.row[own]];
    }
  }
};

// R^T for the units of a warp, as the first operand of its products.
template <class S>
struct ForwardWeights {
  u32 at[S::kGates][S::kTiles][4];

  FLAX_RNN_DEVICE ForwardWeights(const typename S::E* recurrent, const Place<S>& place) {
    const int unit = place.rank * S::kUnits + place.group * 16 + place.g;
#pragma unroll
    for (int gate = 0; gate < S::kGates; gate++)
#pragma unroll
      for (int tile = 0; tile < S::kTiles; tile++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
          const long long row = (place.split * S::kTiles + tile) * S::kDepth + (place.q + 4 * (r >> 1)) * S::kPerWord;
          const int column = gate * S::H + unit + 8 * (r & 1);
          at[gate][tile][r] = OperandWord(recurrent + row * S::kGates * S::H + column, S::kGates * S::H);
        }
  }

  // The warp's part of the products with a state in shared memory.
  FLAX_RNN_DEVICE void Times(const u32* state, const Place<S>& place, float (&sums)[S::kGates][4]) const {
    const u32* from = state + place.g * S::kStride + place.split * S::kTiles * 8 + place.q;
#pragma unroll
    for (int tile = 0; tile < S::kTiles; tile++) {
      u32 h[2] = {from[tile * 8], from[tile * 8 + 4]};
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++) {
        if (S::kDropped && gate) {
          const u32* copy = from + gate * kRows * S::kStride + tile * 8;
          h[0] = copy[0], h[1] = copy[4];
        }
        Multiply(sums[gate], at[gate][tile], h, typename S::E());
      }
    }
  }
};

// The state to start from, by all threads of a block, for all units: of a row that starts with a reset it is zeros.
template <class S>
FLAX_RNN_DEVICE void FirstState(const ForwardArguments<typename S::E>& in, const Place<S>& place, u32* state) {
  typedef typename S::E E;
  const long long first = in.flags & kReverse ? in.steps - 1 : 0;
  for (int i = Thread(); i < S::kCopies * kRows * S::H; i += S::kThreads) {
    const int unit = i % S::H, own_row = i / S::H % kRows, copy = i / (S::H * kRows), row = place.first_row + own_row;
    const bool there = row < in.rows && !((in.flags & kResets) && in.resets[first * in.rows + row]);
    const long long at = (long long)row * S::H + unit;
    float h = there ? in.h0[at] : 0.0f;
    if (S::kDropped && there) h *= Wide(in.dropped[(long long)copy * in.rows * S::H + at]);
    Put(state + (copy * kRows + own_row) * S::kStride, unit, Narrow(h, E()));
  }
}

template <class S, int A, int R>
FLAX_RNN_DEVICE void Forward(const ForwardArguments<typename S::E>& in) {
  typedef typename S::E E;
  typedef typename S::Cell Cell;
  const Place<S> place;
  u32* const states = SharedMemory();
  float* const parts = reinterpret_cast<float*>(states + 2 * S::kState);
  const ForwardWeights<S> weights(in.recurrent, place);
  const ForwardPlaces<S> places(place, in.rows);
  StepInputs<S> next;
  next.Load(in, places, 0);

  float h[S::kOwn], c[S::kOwn], bias[S::kOwn], dropped[S::kCopies][S::kOwn];
  const long long first = in.flags & kReverse ? in.steps - 1 : 0;
#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    const bool starts = (in.flags & kResets) && in.resets[first * in.rows + places.row[own]];
    h[own] = starts ? 0.0f : in.h0[places.unit[own]];
    c[own] = starts || !Cell::kHasCells ? 0.0f : in.c0[places.unit[own]];
    bias[own] = Cell::kSums > Cell::kGates ? in.bias[place.Unit(own)] : 0.0f;
#pragma unroll
    for (int copy = 0; copy < S::kCopies; copy++) {
      const long long of_copy = (long long)copy * in.rows * S::H;
      dropped[copy][own] = S::kDropped ? Wide((in.dropped + of_copy)[places.unit[own]]) : 1.0f;
    }
  }
  FirstState<S>(in, place, states);
  SyncCluster<S::C>();

  for (int step = 0; step < in.steps; step++) {
    const u32* state = states + (step & 1) * S::kState;
    u32* const after = states + (~step & 1) * S::kState;
    const StepInputs<S> now = next;
    const bool more = step + 1 < in.steps;
    if (!S::kDropped && more) next.Load(in, places, step + 1);
    const long long first_row = (long long)(in.flags & kReverse ? in.steps - 1 - step : step) * in.rows;

    float sums[S::kGates][4] = {};
    weights.Times(state, place, sums);
    if constexpr (S::kSplit > 1) {
      const int warp = Thread() >> 5;
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++)
#pragma unroll
        for (int r = 0; r < 4; r++) parts[((warp * S::kGates + gate) * 4 + r) * 32 + place.lane] = sums[gate][r];
      SyncBlock();
    }

#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      float x[S::kGates], products[S::kGates], values[S::kValues];
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++) {
        x[gate] = Wide(now.x[gate][own]);
        if constexpr (S::kSplit == 1) {
          products[gate] = sums[gate][own];
        } else {
          products[gate] = 0.0f;
#pragma unroll
          for (int split = 0; split < S::kSplit; split++) {
            const int warp = split * S::kGroups + place.group;
            products[gate] += parts[((warp * S::kGates + gate) * 4 + place.Part(own)) * 32 + place.lane];
          }
        }
      }
      float new_h = h[own], new_c = c[own];
      Cell::template Step<A, R>(x, products, bias[own], new_h, new_c, values);
      if (now.counts[own]) h[own] = new_h, c[own] = new_c;

      if (places.there[own]) {
        if (in.flags & kKeepOutputs) (in.outputs + first_row * S::H)[places.unit[own]] = Narrow(h[own], E());
        if (in.flags & kKeepValues) {
          E* const to = in.values + first_row * (S::kValues * S::H) + places.Of(own, S::kValues);
#pragma unroll
          for (int value = 0; value < Cell::kValues; value++) to[value * S::H] = Narrow(values[value], E());
          if (Cell::kHasCells) (in.cells + first_row * S::H)[places.unit[own]] = c[own];
        }
      }
      if (now.starts_next[own]) h[own] = c[own] = 0.0f;
#pragma unroll
      for (int copy = 0; copy < S::kCopies; copy++)
        Share(after + copy * kRows * S::kStride, place, own, Narrow(h[own] * dropped[copy][own], E()));
    }
    // No sooner, as registers are full.
    if (S::kDropped && more) next.Load(in, places, step + 1);
    SyncCluster<S::C>();
  }

#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    if (!places.there[own]) continue;
    in.h[places.unit[own]] = h[own];
    if (Cell::kHasCells) in.c[places.unit[own]] = c[own];
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_FORWARD_CUH_
