// Runs artifacts of the relaxc compiler from C++17, on Linux. Needs libtvm_ffi.so; no Python, no TVM.
//
//     relaxc::Model model("model.rxc");
//     std::vector<relaxc::Tensor> outputs = model({relaxc::copy_of(pixels, {1, 3, 224, 224})});
//     const float* scores = relaxc::data<float>(outputs[0]);
#pragma once

#include "relaxc/model.hpp"
