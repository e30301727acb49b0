// An artifact: a zip of stored members, mapped into memory and verified with its checksums.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/extra/json.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "error.hpp"

namespace relaxc {

namespace json = tvm::ffi::json;

constexpr int64_t kSchemaVersion = 1;

// CRC-32 as zip has it, eight bytes at a time.
inline uint32_t crc32(std::string_view data) {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xEDB88320u : 0);
      made[0][i] = value;
    }
    for (int t = 1; t < 8; ++t)
      for (int i = 0; i < 256; ++i)
        made[t][i] = made[t - 1][i] >> 8 ^ made[0][made[t - 1][i] & 0xFF];
    return made;
  }();
  uint32_t crc = ~0u;
  auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
  size_t left = data.size();
  for (; left >= 8; left -= 8, bytes += 8) {
    uint64_t word;
    std::memcpy(&word, bytes, 8);
    word ^= crc;
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= tables[7 - i][word >> 8 * i & 0xFF];
  }
  for (; left; --left, ++bytes) crc = crc >> 8 ^ tables[0][(crc ^ *bytes) & 0xFF];
  return ~crc;
}

class Artifact {
 public:
  // Throws Error: missing, truncated, damaged, or of another schema.
  explicit Artifact(const std::string& path) : path(path) {
    int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw Error("artifact `" + path + "` cannot be read: " + std::strerror(errno));
    struct stat facts {};
    if (fstat(file, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size > 0) {
      size_ = static_cast<size_t>(facts.st_size);
      data_ = static_cast<char*>(mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0));
    }
    close(file);
    if (data_ == nullptr || data_ == MAP_FAILED) throw Error("`" + path + "` is no artifact");
    try {
      find_members();
      read_manifest();
    } catch (...) {
      munmap(data_, size_);
      throw;
    }
  }
  ~Artifact() { munmap(data_, size_); }
  Artifact(const Artifact&) = delete;
  Artifact& operator=(const Artifact&) = delete;

  // Contents of a member, where they are mapped.
  std::string_view member(const std::string& name) const {
    auto found = members_.find(name);
    if (found == members_.end())
      throw Error("`" + path + "` lacks `" + name + "`; compile the model again");
    return found->second;
  }
  bool has(const std::string& name) const { return members_.count(name) != 0; }
  std::string sha256(const std::string& name) const {
    auto all = manifest["members"].cast<json::Object>();
    return all[tvm::ffi::String(name)].cast<json::Object>()["sha256"].cast<tvm::ffi::String>();
  }
  bool contains(const void* address) const {
    auto* byte = static_cast<const char*>(address);
    return byte >= data_ && byte < data_ + size_;
  }

  const std::string path;
  json::Object manifest;

 private:
  template <typename T>
  T number(size_t at) const {
    T value;
    if (at > size_ || size_ - at < sizeof(T)) throw damaged("it is truncated");
    std::memcpy(&value, data_ + at, sizeof(T));
    return value;
  }
  Error damaged(const std::string& why) const {
    return Error("`" + path + "` is damaged or no artifact: " + why + "; copy it again");
  }

  // Local headers lie one behind the other; the list at the end says the same again.
  void find_members() {
    size_t at = 0;
    while (number<uint32_t>(at) == 0x04034b50) {
      auto method = number<uint16_t>(at + 8);
      auto crc = number<uint32_t>(at + 14);
      uint64_t size = number<uint32_t>(at + 22);
      size_t name_size = number<uint16_t>(at + 26), extra_size = number<uint16_t>(at + 28);
      size_t name_at = at + 30, extra_at = name_at + name_size, start = extra_at + extra_size;
      if (start > size_) throw damaged("it is truncated");
      if (size == 0xFFFFFFFF && extra_size >= 12 && number<uint16_t>(extra_at) == 1)
        size = number<uint64_t>(extra_at + 4);
      if (method != 0) throw damaged("a member is compressed");
      if (size > size_ - start) throw damaged("it is truncated");
      std::string name(data_ + name_at, name_size);
      std::string_view contents(data_ + start, size);
      if (crc32(contents) != crc) throw damaged("the checksum of `" + name + "` does not match");
      members_[name] = contents;
      at = start + size;
    }
    if (members_.empty()) throw damaged("it is no zip file");
  }

  void read_manifest() {
    tvm::ffi::String wrong;
    std::string_view text = member("manifest.json");
    auto value = json::Parse(tvm::ffi::String(text.data(), text.size()), &wrong);
    auto object = value.try_cast<json::Object>();
    if (!wrong.empty() || !object) throw damaged("its manifest cannot be read");
    manifest = *object;
    int64_t version = manifest["schema_version"].cast<int64_t>();
    if (version != kSchemaVersion)
      throw Error("`" + path + "` has artifact schema " + std::to_string(version) +
                  ", this library reads " + std::to_string(kSchemaVersion) +
                  "; update it, or compile the model again");
    for (const auto& [name, facts] : manifest["members"].cast<json::Object>())
      member(std::string(name.cast<tvm::ffi::String>()));
  }

  char* data_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, std::string_view> members_;
};

}  // namespace relaxc
