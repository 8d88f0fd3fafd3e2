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

// What a step reads.
template <class S>
struct StepInputs {
  typename S::E x[S::kGates][S::kOwn];
  u8 counts[S::kOwn], starts_next[S::kOwn];  // whether the step is not masked, and whether the next one is a reset

  FLAX_RNN_DEVICE void Load(const ForwardArguments<typename S::E>& in, const Place<S>& place, int step) {
    const bool reverse = in.flags & kReverse;
    const long long time = reverse ? in.steps - 1 - step : step, next = reverse ? time - 1 : time + 1;
#pragma unroll
    for (int own = 0; own < S::kOwn; own++) {
      const int row = place.Row(own);
      const bool there = row < in.rows;
      const typename S::E* from = in.x + (time * in.rows + row) * S::kGates * S::H + place.Unit(own);
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++) x[gate][own] = there ? from[gate * S::H] : (typename S::E)0;
      counts[own] = there && (!(in.flags & kMasked) || in.mask[time * in.rows + row]);
      starts_next[own] = there && (in.flags & kResets) && step + 1 < in.steps && in.resets[next * in.rows + row];
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
    u32* to = state + (copy * kRows + own_row) * S::kStride;
    if constexpr (sizeof(E) == 2) {
      reinterpret_cast<u16*>(to)[unit] = Narrow(h, E());
    } else {
      to[unit] = Operand(h);
    }
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
  StepInputs<S> next;
  next.Load(in, place, 0);

  float h[S::kOwn], c[S::kOwn], bias[S::kOwn], dropped[S::kCopies][S::kOwn];
  const long long first = in.flags & kReverse ? in.steps - 1 : 0;
#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    const int row = place.Row(own), unit = place.Unit(own);
    const bool there = row < in.rows && !((in.flags & kResets) && in.resets[first * in.rows + row]);
    const long long at = (long long)row * S::H + unit;
    h[own] = there ? in.h0[at] : 0.0f;
    c[own] = there && Cell::kHasCells ? in.c0[at] : 0.0f;
    bias[own] = Cell::kSums > Cell::kGates ? in.bias[unit] : 0.0f;
#pragma unroll
    for (int copy = 0; copy < S::kCopies; copy++) {
      const bool drops = S::kDropped && row < in.rows;
      dropped[copy][own] = drops ? Wide(in.dropped[(long long)copy * in.rows * S::H + at]) : 1.0f;
    }
  }
  FirstState<S>(in, place, states);
  SyncCluster<S::C>();

  for (int step = 0; step < in.steps; step++) {
    const u32* state = states + (step & 1) * S::kState;
    u32* const after = states + (~step & 1) * S::kState;
    const StepInputs<S> now = next;
    if (step + 1 < in.steps) next.Load(in, place, step + 1);

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

      const int row = place.Row(own), unit = place.Unit(own);
      if (row < in.rows) {
        const long long at = (long long)(in.flags & kReverse ? in.steps - 1 - step : step) * in.rows + row;
        if (in.flags & kKeepOutputs) in.outputs[at * S::H + unit] = Narrow(h[own], E());
        if (in.flags & kKeepValues) {
#pragma unroll
          for (int value = 0; value < Cell::kValues; value++)
            in.values[(at * Cell::kValues + value) * S::H + unit] = Narrow(values[value], E());
          if (Cell::kHasCells) in.cells[at * S::H + unit] = c[own];
        }
      }
      if (now.starts_next[own]) h[own] = c[own] = 0.0f;
#pragma unroll
      for (int copy = 0; copy < S::kCopies; copy++)
        Share<S>(after + copy * kRows * S::kStride, place, own, Narrow(h[own] * dropped[copy][own], E()));
    }
    SyncCluster<S::C>();
  }

#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    const int row = place.Row(own);
    if (row >= in.rows) continue;
    const long long at = (long long)row * S::H + place.Unit(own);
    in.h[at] = h[own];
    if (Cell::kHasCells) in.c[at] = c[own];
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_CUDA_FORWARD_CUH_
