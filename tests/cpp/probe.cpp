// probe MODEL THREADS CALLERS [DTYPE:DIMS:FILE]...: prints every output, once for all callers.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <relaxc.hpp>
#include <sstream>
#include <thread>

namespace {

relaxc::Tensor read(const std::string& word) {
  size_t first = word.find(':'), second = word.find(':', first + 1);
  std::istringstream dims(word.substr(first + 1, second - first - 1));
  relaxc::Shape shape;
  for (std::string dim; std::getline(dims, dim, 'x');) shape.push_back(std::stoll(dim));
  auto made = relaxc::empty(shape, tvm::ffi::StringToDLDataType(word.substr(0, first)));
  std::ifstream file(word.substr(second + 1), std::ios::binary);
  file.read(static_cast<char*>(made.data_ptr()), tvm::ffi::GetDataSize(*made.GetDLTensorPtr()));
  return made;
}

std::string text(const relaxc::TensorInfo& info, const relaxc::Tensor& tensor) {
  std::ostringstream out;
  out << info.name << " " << std::string(tvm::ffi::DLDataTypeToString(tensor.dtype()));
  for (int64_t size : tensor.shape()) out << " " << size;
  out << " =";
  char digits[40];
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    if (info.dtype == "float32") {
      std::snprintf(digits, sizeof digits, " %a", relaxc::data<float>(tensor)[i]);
      out << digits;
    } else {
      out << " " << relaxc::data<int64_t>(tensor)[i];
    }
  }
  return out.str() + "\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    relaxc::Model model(argv[1], {std::stoi(argv[2]), ""});
    std::vector<relaxc::Tensor> inputs;
    for (int i = 4; i < argc; ++i) inputs.push_back(read(argv[i]));
    std::vector<std::string> said(std::stoul(argv[3]));
    std::vector<std::thread> callers;
    for (auto& words : said)
      callers.emplace_back([&] {
        try {
          for (int run = 0; run < 3; ++run) {
            words.clear();
            auto outputs = model(inputs);
            for (size_t i = 0; i < outputs.size(); ++i) words += text(model.outputs()[i], outputs[i]);
          }
        } catch (const relaxc::Error& err) {
          words = std::string("error: ") + err.what() + "\n";
        }
      });
    for (auto& caller : callers) caller.join();
    for (const auto& words : said)
      if (words != said[0]) throw relaxc::Error("callers differ");
    std::cout << said[0];
    return said[0].rfind("error", 0) == 0;
  } catch (const relaxc::Error& err) {
    std::cout << "error: " << err.what() << "\n";
    return 1;
  }
}
