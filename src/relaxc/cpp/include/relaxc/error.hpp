// What every function of this library throws, with one line that says what, where and what to do.
#pragma once

#include <stdexcept>

namespace relaxc {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace relaxc
