// What XLA hands over: arrays whose shapes are checked, since the kernels trust them, and names; and what becomes of
// exceptions, which XLA does not know.
//
// Arrays that are not given, or not asked for, have no elements.

#ifndef FLAX_RNN_ARGUMENTS_H_
#define FLAX_RNN_ARGUMENTS_H_

#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cells.h"
#include "xla/ffi/api/ffi.h"

namespace flax_rnn {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using Booleans = ffi::Buffer<ffi::PRED>;
using Result = ffi::Result<Floats>;
using Shape = ffi::Span<const int64_t>;

inline const float* Data(const Floats& array) { return array.element_count() > 0 ? array.typed_data() : nullptr; }
inline float* Data(Result& array) { return array->element_count() > 0 ? array->typed_data() : nullptr; }
inline const bool* Data(const Booleans& array) { return array.element_count() > 0 ? array.typed_data() : nullptr; }

// As Python writes it.
inline std::string Text(Shape shape) {
  std::string text = "(";
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape[axis]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

[[noreturn]] inline void Refuse(std::string_view name, const std::string& expected, const std::string& received) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + received);
}

inline bool Equal(Shape a, Shape b) { return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()); }

template <typename Array>
void Expect(const char* name, const Array& array, std::initializer_list<int64_t> shape) {
  const Shape received = array.dimensions(), expected(shape.begin(), shape.size());
  if (!Equal(received, expected)) Refuse(name, "shape " + Text(expected), Text(received));
}

// Either has no elements, or this shape.
template <typename Array>
void ExpectAtMost(const char* name, const Array& array, std::initializer_list<int64_t> shape) {
  if (array.element_count() > 0) Expect(name, array, shape);
}

// The sizes of an array of so many axes.
inline Shape Sizes(const char* name, const Floats& array, size_t axes) {
  const Shape sizes = array.dimensions();
  if (sizes.size() != axes) Refuse(name, std::to_string(axes) + " axes", "shape " + Text(sizes));
  return sizes;
}

// Dropout masks (count, B, size): none, one for all gates, or one for each.
inline DropoutMasks MasksOf(const char* name, const Floats& array, int64_t gates, int64_t batch, int64_t size) {
  if (array.element_count() == 0) return {nullptr, 0, batch};
  const int64_t count = Sizes(name, array, 3)[0] == 1 ? 1 : gates;
  Expect(name, array, {count, batch, size});
  return {array.typed_data(), count, batch};
}

inline Activation ActivationOf(const char* argument, std::string_view name) {
  for (size_t index = 0; index < std::size(kActivations); ++index)
    if (kActivations[index] == name) return Activation(index);
  Refuse(argument, "the name of an activation", "'" + std::string(name) + "'");
}

// Calls function(Cell()) for the cell of this name. What it throws becomes an error.
template <typename F>
ffi::Error Run(std::string_view cell, const F& function) noexcept {
  try {
    if (!Cells::Dispatch(cell, function)) Refuse("cell", "the name of a kernel", "'" + std::string(cell) + "'");
    return ffi::Error::Success();
  } catch (const std::invalid_argument& error) {
    return ffi::Error::InvalidArgument(error.what());
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::length_error&) {  // of a vector that no memory could hold
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  } catch (...) {
    return ffi::Error::Internal("unknown");
  }
}

}  // namespace flax_rnn

#endif  // FLAX_RNN_ARGUMENTS_H_
