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

// What a step leaves behind in memory.
template <class S>
struct StepResults {
  typename S::E output[S::kOwn], values[S::kValues][S::kOwn];
  float cell[S::kOwn];

  FLAX_RNN_DEVICE void Store(const ForwardArguments<typename S::E>& in, const ForwardPlaces<S>& places,
                             long long first_row, int own) const {
    typedef typename S::Cell Cell;
    if (!places.there[own]) return;
    if (in.flags & kKeepOutputs) (in.outputs + first_row * S::H)[places.unit[own]] = output[own];
    if (in.flags & kKeepValues) {
      typename S::E* const to = in.values + first_row * (S::kValues * S::H) + places.Of(own, S::kValues);
#pragma unroll
      for (int value = 0; value < Cell::kValues; value++) to[value * S::H] = values[value][own];
      if (Cell::kHasCells) (in.cells + first_row * S::H)[places.unit[own]] = cell[own];
    }
  }
};

// The dropout masks of the state for the warp's part of it, as products take them: in registers where there
// is room, and else in shared memory, where each gate has them in the places of the state.
template <class S>
struct StateMasks {
  static constexpr bool kKept = S::kGates * S::kTiles <= 16 && S::kThreads <= 256;
  u32 kept[kKept && S::kDropped ? S::kGates * S::kTiles * 2 : 1];
  const u32* from;

  // By all threads of a block, for all of the state. A barrier has to follow, and then Keep.
  FLAX_RNN_DEVICE StateMasks(const ForwardArguments<typename S::E>& in, const Place<S>& place, u32* masks) {
    typedef typename S::E E;
    from = masks + place.g * S::kStride + place.split * S::kTiles * 8 + place.q;
    if constexpr (S::kDropped) {
      for (int i = Thread(); i < S::kGates * kRows * S::H; i += S::kThreads) {
        const int unit = i % S::H, own_row = i / S::H % kRows, gate = i / (S::H * kRows);
        const int row = place.first_row + own_row;
        const long long at = ((long long)gate * in.rows + row) * S::H + unit;
        Put(masks + gate * S::kState + own_row * S::kStride, unit, row < in.rows ? in.dropped[at] : E());
      }
    }
  }

  FLAX_RNN_DEVICE void Keep() {
    if constexpr (kKept && S::kDropped) {
#pragma unroll
      for (int i = 0; i < S::kGates * S::kTiles * 2; i++)
        kept[i] = from[i / 2 / S::kTiles * S::kState + i / 2 % S::kTiles * 8 + i % 2 * 4];
    }
  }

  // Of one half of the depth of a product.
  FLAX_RNN_DEVICE u32 Of(int gate, int tile, int half) const {
    return kKept ? kept[(gate * S::kTiles + tile) * 2 + half] : from[gate * S::kState + tile * 8 + half * 4];
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

  // The warp's part of the products with a state in shared memory, in which each gate drops its own part by its mask.
  FLAX_RNN_DEVICE void Times(const u32* state, const StateMasks<S>& masks, const Place<S>& place,
                             float (&sums)[S::kGates][4]) const {
    typedef typename S::E E;
    const u32* const from = state + place.g * S::kStride + place.split * S::kTiles * 8 + place.q;
#pragma unroll
    for (int tile = 0; tile < S::kTiles; tile++) {
      const u32 h[2] = {from[tile * 8], from[tile * 8 + 4]};
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++) {
        if constexpr (S::kDropped) {
          const u32 left[2] = {TimesWord(h[0], masks.Of(gate, tile, 0), E()),
                               TimesWord(h[1], masks.Of(gate, tile, 1), E())};
          Multiply(sums[gate], at[gate][tile], left, E());
        } else {
          Multiply(sums[gate], at[gate][tile], h, E());
        }
      }
    }
  }
};

// The state to start from, by all threads of a block, for all units: of a row that starts with a reset it is zeros.
template <class S>
FLAX_RNN_DEVICE void FirstState(const ForwardArguments<typename S::E>& in, const Place<S>& place, u32* state) {
  const long long first = in.flags & kReverse ? in.steps - 1 : 0;
  for (int i = Thread(); i < kRows * S::H; i += S::kThreads) {
    const int unit = i % S::H, own_row = i / S::H, row = place.first_row + own_row;
    const bool there = row < in.rows && !((in.flags & kResets) && in.resets[first * in.rows + row]);
    const float h = there ? in.h0[(long long)row * S::H + unit] : 0.0f;
    Put(state + own_row * S::kStride, unit, Narrow(h, typename S::E()));
  }
}

template <class S, int A, int R>
FLAX_RNN_DEVICE void Forward(const ForwardArguments<typename S::E>& in) {
  typedef typename S::E E;
  typedef typename S::Cell Cell;
  const Place<S> place;
  u32* const states = SharedMemory();
  u32* const all_masks = states + 2 * S::kState;
  float* const parts = reinterpret_cast<float*>(all_masks + S::kStateMasks);
  const Exchange<S::C, S::kForwardBytes> exchange(all_masks + S::kStateMasks + S::kParts);
  const ForwardWeights<S> weights(in.recurrent, place);
  const ForwardPlaces<S> places(place, in.rows);
  StepInputs<S> next;
  next.Load(in, places, 0);

  float h[S::kOwn], c[S::kOwn], bias[S::kOwn];
  const long long first = in.flags & kReverse ? in.steps - 1 : 0;
#pragma unroll
  for (int own = 0; own < S::kOwn; own++) {
    const bool starts = (in.flags & kResets) && in.resets[first * in.rows + places.row[own]];
    h[own] = starts ? 0.0f : in.h0[places.unit[own]];
    c[own] = starts || !Cell::kHasCells ? 0.0f : in.c0[places.unit[own]];
    bias[own] = Cell::kSums > Cell::kGates ? in.bias[place.Unit(own)] : 0.0f;
  }
  FirstState<S>(in, place, states);
  StateMasks<S> masks(in, place, all_masks);
  exchange.Open();
  SyncCluster<S::C>();
  masks.Keep();

  for (int step = 0; step < in.steps; step++) {
    const u32* state = states + (step & 1) * S::kState;
    u32* const after = states + (~step & 1) * S::kState;
    const StepInputs<S> now = next;
    if (step + 1 < in.steps) next.Load(in, places, step + 1);

    const long long first_row = (long long)(in.flags & kReverse ? in.steps - 1 - step : step) * in.rows;
    float sums[S::kGates][4] = {};
    weights.Times(state, masks, place, sums);
    if constexpr (S::kSplit > 1) {
      const int warp = Thread() >> 5;
#pragma unroll
      for (int gate = 0; gate < S::kGates; gate++)
#pragma unroll
        for (int r = 0; r < 4; r++) parts[((warp * S::kGates + gate) * 4 + r) * 32 + place.lane] = sums[gate][r];
      SyncBlock();
    }

    StepResults<S> results;
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
      results.output[own] = Narrow(h[own], E());
#pragma unroll
      for (int value = 0; value < Cell::kValues; value++) results.values[value][own] = Narrow(values[value], E());
      results.cell[own] = c[own];
      if (S::C == 1) results.Store(in, places, first_row, own);
      if (now.starts_next[own]) h[own] = c[own] = 0.0f;
      Share(after, place, own, Narrow(h[own], E()), exchange, step);
    }
    // What others wait for goes first. A block alone has none to wait, and not the registers.
#pragma unroll
    for (int own = 0; own < S::kOwn; own++)
      if (S::C > 1) results.Store(in, places, first_row, own);
    exchange.Await(step);
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
