// The functions that XLA calls. Each checks the sizes of all arrays against the first ones.

#include "arguments.h"
#include "passes.h"

namespace flax_rnn {
namespace {

// The sizes of a layer, from a sequence (B, T, N) and the state (B, H) ahead of it, with a mask (B, T) or none.
Layer Describe(const char* name, const Floats& sequence, const Floats& h0, const Booleans& mask, bool reverse) {
  const Shape sizes = Sizes(name, sequence, 3);
  Layer layer{};
  layer.batch = sizes[0], layer.steps = sizes[1], layer.features = sizes[2];
  layer.units = Sizes("h0", h0, 2)[1];
  layer.reverse = reverse;
  layer.mask = Data(mask);
  Expect("h0", h0, {layer.batch, layer.units});
  ExpectAtMost("mask", mask, {layer.batch, layer.steps});
  return layer;
}

ffi::Error RunForward(ffi::ThreadPool pool, std::string_view cell, std::string_view activation, std::string_view gate,
                      bool reverse, Floats x, Floats kernel, Floats recurrent, Floats bias, Floats h0, Floats c0,
                      Booleans mask, Floats input_masks, Floats recurrent_masks, Result h, Result c, Result outputs,
                      Result gates, Result extra) {
  return Run(cell, [&](auto type) {
    using Cell = decltype(type);
    Layer layer = Describe("x", x, h0, mask, reverse);
    const int64_t batch = layer.batch, steps = layer.steps, features = layer.features, units = layer.units;
    layer.activation = ActivationOf("activation", activation);
    layer.gate = ActivationOf("recurrent_activation", gate);
    layer.input_masks = MasksOf("input_masks", input_masks, Cell::kGates, batch, features);
    layer.recurrent_masks = MasksOf("recurrent_masks", recurrent_masks, Cell::kGates, batch, units);
    Expect("kernel", kernel, {features, Cell::kGates * units});
    Expect("recurrent_kernel", recurrent, {units, Cell::kGates * units});
    Expect("bias", bias, {Cell::kSums * units});
    Expect("c0", c0, {Cell::kCell * batch, Cell::kCell * units});
    Expect("h", *h, {batch, units});
    Expect("c", *c, {Cell::kCell * batch, Cell::kCell * units});
    ExpectAtMost("outputs", *outputs, {batch, steps, units});
    ExpectAtMost("gates", *gates, {batch, steps, Cell::kSaved * units});
    if (Data(gates) != nullptr) Expect("extra", *extra, {batch, steps, Cell::kExtra * units});
    Forward<Cell>(pool, layer, {Data(kernel), Data(recurrent), Data(bias)},
                  {Data(x), Data(h0), Data(c0), Data(h), Data(c), Data(outputs), Data(gates), Data(extra)});
  });
}

ffi::Error RunBackward(ffi::ThreadPool pool, std::string_view cell, std::string_view activation, std::string_view gate,
                       bool reverse, Floats outputs, Floats gates, Floats extra, Floats recurrent, Floats h0, Floats c0,
                       Booleans mask, Floats recurrent_masks, Floats d_h, Floats d_c, Floats d_outputs, Result d_sums,
                       Result d_h0, Result d_c0) {
  return Run(cell, [&](auto type) {
    using Cell = decltype(type);
    Layer layer = Describe("outputs", outputs, h0, mask, reverse);
    const int64_t batch = layer.batch, steps = layer.steps, units = layer.units;
    layer.activation = ActivationOf("activation", activation);
    layer.gate = ActivationOf("recurrent_activation", gate);
    layer.recurrent_masks = MasksOf("recurrent_masks", recurrent_masks, Cell::kGates, batch, units);
    Expect("outputs", outputs, {batch, steps, units});
    Expect("gates", gates, {batch, steps, Cell::kSaved * units});
    Expect("extra", extra, {batch, steps, Cell::kExtra * units});
    Expect("recurrent_kernel", recurrent, {units, Cell::kGates * units});
    Expect("c0", c0, {Cell::kCell * batch, Cell::kCell * units});
    Expect("d_h", d_h, {batch, units});
    Expect("d_c", d_c, {Cell::kCell * batch, Cell::kCell * units});
    ExpectAtMost("d_outputs", d_outputs, {batch, steps, units});
    Expect("d_sums", *d_sums, {batch, steps, Cell::kSums * units});
    Expect("d_h0", *d_h0, {batch, units});
    Expect("d_c0", *d_c0, {Cell::kCell * batch, Cell::kCell * units});
    Backward<Cell>(pool, layer, Data(recurrent),
                   {Data(outputs), Data(gates), Data(extra), Data(h0), Data(c0), Data(d_h), Data(d_c), Data(d_outputs),
                    Data(d_sums), Data(d_h0), Data(d_c0)});
  });
}

ffi::Error RunInputsGradient(ffi::ThreadPool pool, std::string_view cell, Floats d_sums, Floats kernel,
                             Floats input_masks, Result d_x) {
  return Run(cell, [&](auto type) {
    using Cell = decltype(type);
    const Shape sizes = Sizes("d_x", *d_x, 3);
    Layer layer{};
    layer.batch = sizes[0], layer.steps = sizes[1], layer.features = sizes[2];
    layer.units = Sizes("kernel", kernel, 2)[1] / Cell::kGates;
    layer.input_masks = MasksOf("input_masks", input_masks, Cell::kGates, layer.batch, layer.features);
    Expect("kernel", kernel, {layer.features, Cell::kGates * layer.units});
    Expect("d_sums", d_sums, {layer.batch, layer.steps, Cell::kSums * layer.units});
    InputsGradient<Cell>(pool, layer, Data(kernel), Data(d_sums), Data(d_x));
  });
}

ffi::Error RunWeightsGradient(ffi::ThreadPool pool, std::string_view cell, bool reverse, Floats d_sums, Floats x,
                              Floats outputs, Floats extra, Floats h0, Booleans mask, Floats input_masks,
                              Floats recurrent_masks, Result d_kernel, Result d_recurrent, Result d_bias) {
  return Run(cell, [&](auto type) {
    using Cell = decltype(type);
    Layer layer = Describe("x", x, h0, mask, reverse);
    const int64_t batch = layer.batch, steps = layer.steps, features = layer.features, units = layer.units;
    layer.input_masks = MasksOf("input_masks", input_masks, Cell::kGates, batch, features);
    layer.recurrent_masks = MasksOf("recurrent_masks", recurrent_masks, Cell::kGates, batch, units);
    Expect("d_sums", d_sums, {batch, steps, Cell::kSums * units});
    Expect("outputs", outputs, {batch, steps, units});
    Expect("extra", extra, {batch, steps, Cell::kExtra * units});
    Expect("d_kernel", *d_kernel, {features, Cell::kGates * units});
    Expect("d_recurrent_kernel", *d_recurrent, {units, Cell::kGates * units});
    Expect("d_bias", *d_bias, {Cell::kSums * units});
    WeightsGradient<Cell>(
        pool, layer,
        {Data(d_sums), Data(x), Data(outputs), Data(extra), Data(h0), Data(d_kernel), Data(d_recurrent), Data(d_bias)});
  });
}

auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<std::string_view>("cell")
      .Attr<std::string_view>("activation")
      .Attr<std::string_view>("recurrent_activation")
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
                                  .Attr<std::string_view>("cell")
                                  .Arg<Floats>()    // d_sums
                                  .Arg<Floats>()    // kernel
                                  .Arg<Floats>()    // input_masks
                                  .Ret<Floats>());  // d_x

XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnWeightsGradient, RunWeightsGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<std::string_view>("cell")
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

}  // namespace flax_rnn
