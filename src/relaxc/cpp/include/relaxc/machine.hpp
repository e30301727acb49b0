// What this machine's CPU can do, in LLVM's words, and how many cores there are to use.
#pragma once

#include <sched.h>
#include <sys/auxv.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>

namespace relaxc::machine {

// As in a target triple: `x86_64`, `aarch64`.
inline std::string architecture() {
  utsname names{};
  uname(&names);
  return names.machine;
}

// Spellings of LLVM and of Linux differ in `.`, `-` and `_`, and in a few names.
inline std::string plain(std::string name) {
  static const std::map<std::string, std::string> of_linux = {{"pni", "sse3"},
                                                              {"abm", "lzcnt"},
                                                              {"bmi1", "bmi"},
                                                              {"pclmulqdq", "pclmul"},
                                                              {"sha_ni", "sha"}};
  if (auto found = of_linux.find(name); found != of_linux.end()) name = found->second;
  name.erase(std::remove_if(name.begin(), name.end(),
                            [](char c) { return c == '.' || c == '-' || c == '_'; }),
             name.end());
  return name;
}

// Features of this CPU, spelled by `plain`.
inline std::set<std::string> features() {
  std::set<std::string> found;
#if defined(__aarch64__)
  // Bits of the kernel's hardware capabilities; from 64 on, of the second word.
  const std::pair<const char*, int> bits[] = {
      {"neon", 1},      {"aes", 3},   {"sha2", 6},      {"crc", 7},        {"lse", 8},
      {"fullfp16", 10}, {"rdm", 12},  {"rcpc", 15},     {"dotprod", 20},   {"sve", 22},
      {"sve2", 64 + 1}, {"i8mm", 77}, {"bf16", 64 + 14}};
  for (auto [name, bit] : bits) {
    unsigned long word = getauxval(bit < 64 ? AT_HWCAP : AT_HWCAP2);
    if (word >> (bit % 64) & 1) found.insert(name);
  }
#else
  std::ifstream lines("/proc/cpuinfo");
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) found.insert(plain(word));
    break;
  }
#endif
  return found;
}

// Physical cores that this process may run on: hyper-threads of one core count once.
inline int available_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::string> siblings;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::string number = std::to_string(cpu), line = number;
    std::ifstream file("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    std::getline(file, line);
    siblings.insert(line.empty() ? number : line);
  }
  return std::max<int>(1, static_cast<int>(siblings.size()));
}

}  // namespace relaxc::machine
