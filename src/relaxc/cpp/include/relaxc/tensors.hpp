// Tensors: TVM FFI's, in memory that is aligned as compiled code wants it.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>

#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "error.hpp"

namespace relaxc {

using Tensor = tvm::ffi::Tensor;
using Shape = std::vector<int64_t>;

constexpr size_t kAlignment = 64;

namespace detail {

// Memory of a tensor's own.
struct Owned {
  void AllocData(DLTensor* tensor) {
    size_t size = tvm::ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(kAlignment, (size / kAlignment + 1) * kAlignment);
    if (!tensor->data) throw Error("out of memory: a tensor takes " + std::to_string(size) + " B");
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

// Memory of somebody else, who lives as long as the tensor.
struct Lent {
  std::shared_ptr<const void> owner;
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

inline tvm::ffi::ShapeView view_of(const Shape& shape) { return {shape.data(), shape.size()}; }

}  // namespace detail

// DLPack's type of a C++ type: float, double, integers, bool.
template <typename T>
constexpr DLDataType dtype_of() {
  static_assert(std::is_arithmetic_v<T>, "there is no such element type");
  uint8_t code = std::is_same_v<T, bool>         ? kDLBool
                 : std::is_floating_point_v<T>   ? kDLFloat
                 : std::is_signed_v<T>           ? kDLInt
                                                 : kDLUInt;
  return {code, sizeof(T) * 8, 1};
}

// A tensor of its own memory, not initialized.
inline Tensor empty(const Shape& shape, DLDataType dtype) {
  return Tensor::FromNDAlloc(detail::Owned{}, detail::view_of(shape), dtype, {kDLCPU, 0});
}

// A tensor that holds a copy of `values`, in C order.
template <typename T>
Tensor copy_of(const T* values, const Shape& shape) {
  Tensor made = empty(shape, dtype_of<T>());
  std::memcpy(made.data_ptr(), values, tvm::ffi::GetDataSize(*made.GetDLTensorPtr()));
  return made;
}

// The elements of a tensor in C order. Throws Error: they are of another type.
template <typename T>
const T* data(const Tensor& tensor) {
  if (!(tensor.dtype() == dtype_of<T>()))
    throw Error("the tensor holds " + std::string(tvm::ffi::DLDataTypeToString(tensor.dtype())));
  return static_cast<const T*>(tensor.data_ptr());
}

}  // namespace relaxc
