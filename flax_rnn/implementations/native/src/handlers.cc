// The functions that XLA calls, and one that tells whether they can run on this machine.
//
// Arrays that a cell does not have, or that are not asked for, are empty.

#include "gru.h"
#include "gru_reset_before.h"
#include "lstm.h"
#include "simple_rnn.h"
#include "threads.h"

namespace flax_rnn {
namespace {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using Booleans = ffi::Buffer<ffi::PRED>;
using Result = ffi::Result<Floats>;

const float* Data(const Floats& array) { return array.element_count() > 0 ? array.typed_data() : nullptr; }
float* Data(Result& array) { return array->element_count() > 0 ? array->typed_data() : nullptr; }
const bool* Data(const Booleans& array) { return array.element_count() > 0 ? array.typed_data() : nullptr; }

Layer Describe(const Floats& sequence, const Floats& h0, const bool* mask, int64_t activation, int64_t gate,
               bool reverse) {
  const auto sizes = sequence.dimensions();  // (B, T, N)
  return {sizes[0], sizes[1], sizes[2], h0.dimensions()[1], reverse, Activation(activation), Activation(gate),
          {},       {},       mask};
}

DropoutMasks Masks(const Floats& masks, int64_t batch) {
  return {Data(masks), Data(masks) == nullptr ? 0 : static_cast<int64_t>(masks.dimensions()[0]), batch};
}

template <typename Cell>
void Forward(ffi::ThreadPool& pool, const Layer& layer, const Floats& kernel, const Floats& recurrent,
             const Floats& bias, const ForwardArrays& arrays) {
  std::vector<Panels> panels = Cell::Pack(layer, kernel.typed_data(), recurrent.typed_data(), bias.typed_data());
  const auto pack = [&](int64_t panel) {
    for (Panels& matrix : panels)
      if (panel < matrix.count()) matrix.Pack(panel);
  };
  ForRows(pool, panels[0].count(), pack, layer.batch,
          [&](int64_t first, int64_t last) { Cell::Forward(layer, panels, arrays, first, last); });
}

template <typename Cell>
void Backward(ffi::ThreadPool& pool, const Layer& layer, const Floats& recurrent, const BackwardArrays& arrays) {
  TransposedPanels panels(recurrent.typed_data(), layer.units, recurrent.dimensions()[1], layer.units);
  ForRows(
      pool, panels.count(), [&](int64_t panel) { panels.Pack(panel); }, layer.batch,
      [&](int64_t first, int64_t last) { Cell::Backward(layer, panels, arrays, first, last); });
}

// In the order of flax_rnn.native.kernels.CELLS.
enum class Kind : int64_t { kLstm, kGru, kGruResetBefore, kSimpleRnn };

ffi::Error RunForward(ffi::ThreadPool pool, int64_t cell, int64_t activation, int64_t gate, bool reverse, Floats x,
                      Floats kernel, Floats recurrent, Floats bias, Floats h0, Floats c0, Booleans mask,
                      Floats input_masks, Floats recurrent_masks, Result h, Result c, Result outputs, Result gates,
                      Result extra) {
  Layer layer = Describe(x, h0, Data(mask), activation, gate, reverse);
  layer.input_masks = Masks(input_masks, layer.batch);
  layer.recurrent_masks = Masks(recurrent_masks, layer.batch);
  const ForwardArrays arrays{Data(x), Data(h0), Data(c0), Data(h), Data(c), Data(outputs), Data(gates), Data(extra)};
  switch (Kind(cell)) {
    case Kind::kLstm:
      Forward<Lstm>(pool, layer, kernel, recurrent, bias, arrays);
      break;
    case Kind::kGru:
      Forward<Gru>(pool, layer, kernel, recurrent, bias, arrays);
      break;
    case Kind::kGruResetBefore:
      Forward<GruResetBefore>(pool, layer, kernel, recurrent, bias, arrays);
      break;
    case Kind::kSimpleRnn:
      Forward<SimpleRnn>(pool, layer, kernel, recurrent, bias, arrays);
      break;
  }
  return ffi::Error::Success();
}

ffi::Error RunBackward(ffi::ThreadPool pool, int64_t cell, int64_t activation, int64_t gate, bool reverse,
                       Floats outputs, Floats gates, Floats extra, Floats recurrent, Floats h0, Floats c0,
                       Booleans mask, Floats recurrent_masks, Floats d_h, Floats d_c, Floats d_outputs, Result d_sums,
                       Result d_h0, Result d_c0) {
  Layer layer = Describe(outputs, h0, Data(mask), activation, gate, reverse);
  layer.recurrent_masks = Masks(recurrent_masks, layer.batch);
  const BackwardArrays arrays{Data(outputs), Data(gates),     Data(extra),  Data(h0),   Data(c0),  Data(d_h),
                              Data(d_c),     Data(d_outputs), Data(d_sums), Data(d_h0), Data(d_c0)};
  switch (Kind(cell)) {
    case Kind::kLstm:
      Backward<Lstm>(pool, layer, recurrent, arrays);
      break;
    case Kind::kGru:
      Backward<Gru>(pool, layer, recurrent, arrays);
      break;
    case Kind::kGruResetBefore:
      Backward<GruResetBefore>(pool, layer, recurrent, arrays);
      break;
    case Kind::kSimpleRnn:
      Backward<SimpleRnn>(pool, layer, recurrent, arrays);
      break;
  }
  return ffi::Error::Success();
}

// How many gates the weights of a cell have, and the sums of its products.
struct Columns {
  int weights, sums;
};

Columns ColumnsOf(int64_t cell) {
  switch (Kind(cell)) {
    case Kind::kLstm:
      return {4, 4};
    case Kind::kGru:
      return {3, 4};
    case Kind::kGruResetBefore:
      return {3, 3};
    case Kind::kSimpleRnn:
      break;
  }
  return {1, 1};
}

ffi::Error RunInputsGradient(ffi::ThreadPool pool, int64_t cell, Floats d_sums, Floats kernel, Floats masks,
                             Result d_x) {
  const auto sizes = d_x->dimensions();  // (B, T, D)
  const int64_t batch = sizes[0], steps = sizes[1], features = sizes[2];
  const Columns columns = ColumnsOf(cell);
  const int64_t units = kernel.dimensions()[1] / columns.weights;
  TransposedPanels panels(kernel.typed_data(), features, columns.weights * units, units);
  ForRows(
      pool, panels.count(), [&](int64_t panel) { panels.Pack(panel); }, batch * steps,
      [&](int64_t first, int64_t last) {
        MultiplyTransposed<false>(panels, Masks(masks, batch), {0, columns.weights, columns.sums},
                                  d_sums.typed_data() + first * columns.sums * units, first, last - first, steps,
                                  d_x->typed_data() + first * features);
      });
  return ffi::Error::Success();
}

ffi::Error RunWeightsGradient(ffi::ThreadPool pool, int64_t cell, bool reverse, Floats d_sums, Floats x, Floats outputs,
                              Floats extra, Floats h0, Booleans mask, Floats input_masks, Floats recurrent_masks,
                              Result d_kernel, Result d_recurrent, Result d_bias) {
  Layer layer = Describe(x, h0, Data(mask), 0, 0, reverse);
  layer.input_masks = Masks(input_masks, layer.batch);
  layer.recurrent_masks = Masks(recurrent_masks, layer.batch);
  if (layer.batch == 0) {  // nothing below would write them
    for (Result* result : {&d_kernel, &d_recurrent, &d_bias})
      std::fill_n((*result)->typed_data(), (*result)->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  const Columns columns = ColumnsOf(cell);
  Weight inputs{{}, {}, Data(d_kernel)}, states{{}, {}, Data(d_recurrent)};
  for (int gate = 0; gate < columns.weights; ++gate) {
    inputs.rows.push_back({Data(x), nullptr, layer.input_masks.Of(gate, layer.features), layer.features});
    states.rows.push_back({Data(outputs), Data(h0), layer.recurrent_masks.Of(gate, layer.units), layer.units});
    inputs.from.push_back(gate);
    states.from.push_back(gate);
  }
  states.from.back() = columns.sums - 1;
  if (Kind(cell) == Kind::kGruResetBefore) {
    states.rows.back().values = Data(extra);
    states.rows.back().before = nullptr;
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const WeightsGradients gradients(layer, {inputs, states}, columns.sums, Data(d_sums), Data(d_bias));
  ForEach(pool, 0, [](int64_t) {}, gradients.parts(threads), [&](int64_t part) { gradients.Compute(part, threads); });
  return ffi::Error::Success();
}

auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("cell")
      .Attr<int64_t>("activation")
      .Attr<int64_t>("recurrent_activation")
      .Attr<bool>("reverse");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnForward, RunForward,
                              Binding()
                                  .Arg<Floats>()    // x
                                  .Arg<Floats>()    // kernel
                                  .Arg<Floats>()    // recurrent
                                  .Arg<Floats>()    // bias
                                  .Arg<Floats>()    // h0
                                  .Arg<Floats>()    // c0
                                  .Arg<Booleans>()  // mask
                                  .Arg<Floats>()    // input_masks
                                  .Arg<Floats>()    // recurrent_masks
                                  .Ret<Floats>()    // h
                                  .Ret<Floats>()    // c
                                  .Ret<Floats>()    // outputs
                                  .Ret<Floats>()    // gates
                                  .Ret<Floats>());  // extra

XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnBackward, RunBackward,
                              Binding()
                                  .Arg<Floats>()    // outputs
                                  .Arg<Floats>()    // gates
                                  .Arg<Floats>()    // extra
                                  .Arg<Floats>()    // recurrent
                                  .Arg<Floats>()    // h0
                                  .Arg<Floats>()    // c0
                                  .Arg<Booleans>()  // mask
                                  .Arg<Floats>()    // recurrent_masks
                                  .Arg<Floats>()    // d_h
                                  .Arg<Floats>()    // d_c
                                  .Arg<Floats>()    // d_outputs
                                  .Ret<Floats>()    // d_sums
                                  .Ret<Floats>()    // d_h0
                                  .Ret<Floats>());  // d_c0

XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnInputsGradient, RunInputsGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("cell")
                                  .Arg<Floats>()    // d_sums
                                  .Arg<Floats>()    // kernel
                                  .Arg<Floats>()    // input_masks
                                  .Ret<Floats>());  // d_x

XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnWeightsGradient, RunWeightsGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("cell")
                                  .Attr<bool>("reverse")
                                  .Arg<Floats>()    // d_sums
                                  .Arg<Floats>()    // x
                                  .Arg<Floats>()    // outputs
                                  .Arg<Floats>()    // extra
                                  .Arg<Floats>()    // h0
                                  .Arg<Booleans>()  // mask
                                  .Arg<Floats>()    // input_masks
                                  .Arg<Floats>()    // recurrent_masks
                                  .Ret<Floats>()    // d_kernel
                                  .Ret<Floats>()    // d_recurrent
                                  .Ret<Floats>());  // d_bias

// Whether the processor has the instructions that this was compiled for.
extern "C" bool FlaxRnnSupported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
  return true;
#endif
}

}  // namespace flax_rnn
