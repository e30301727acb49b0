// Reads a handwritten digit from the text file that examples/demo.py draws, and says which it is.
//
//     classify model.rxc digit.txt
#include <algorithm>
#include <fstream>
#include <iostream>
#include <relaxc.hpp>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: classify MODEL.rxc DIGIT.txt\n";
    return 2;
  }
  try {
    relaxc::Model model(argv[1]);
    std::vector<float> pixels;
    std::ifstream file(argv[2]);
    for (std::string line; std::getline(file, line);)
      for (char mark : line) pixels.push_back(mark == '#' ? 255.0f : 0.0f);
    pixels.resize(28 * 28);
    auto outputs = model({relaxc::copy_of(pixels.data(), {1, 1, 28, 28})});
    const float* scores = relaxc::data<float>(outputs[0]);
    std::cout << std::max_element(scores, scores + 10) - scores << "\n";
  } catch (const relaxc::Error& err) {
    std::cerr << "error: " << err.what() << "\n";
    return 1;
  }
}
