// The shared libraries of an artifact: put into a folder under their hashes, and loaded from there.
#pragma once

#include <dlfcn.h>
#include <sys/stat.h>
#include <tvm/ffi/extra/module.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>

#include "artifact.hpp"

namespace relaxc {

// TVMFFIFunctionCall, and how our pool calls it with a number of threads.
using Call = int (*)(TVMFFIObjectHandle, TVMFFIAny*, int32_t, TVMFFIAny*);
using PoolCall = int (*)(int, int, Call, TVMFFIObjectHandle, const TVMFFIAny*, int32_t, TVMFFIAny*);

// $XDG_CACHE_HOME/relaxc, or ~/.cache/relaxc.
inline std::filesystem::path default_cache_dir() {
  if (const char* folder = std::getenv("XDG_CACHE_HOME"); folder && *folder == '/')
    return std::filesystem::path(folder) / "relaxc";
  if (const char* home = std::getenv("HOME"); home && *home)
    return std::filesystem::path(home) / ".cache" / "relaxc";
  throw Error("there is no folder for libraries; set HOME, or pass cache_dir");
}

inline bool holds(const std::filesystem::path& path, std::string_view contents) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  std::string found{std::istreambuf_iterator<char>(file), {}};
  return found == contents;
}

// Write a library under the hash of its contents, whole or not at all.
inline std::filesystem::path extract(const Artifact& artifact, const std::string& name,
                                     const std::filesystem::path& cache_dir) {
  std::string_view contents = artifact.member("lib/" + name);
  std::filesystem::path folder = cache_dir / "lib";
  std::filesystem::path path = folder / (artifact.sha256("lib/" + name) + ".so");
  if (holds(path, contents)) return path;
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  std::string partial = path.string() + ".XXXXXX";
  int file = mkstemp(partial.data());
  bool is_written = file >= 0;
  for (size_t at = 0; is_written && at < contents.size();) {
    ssize_t count = write(file, contents.data() + at, contents.size() - at);
    is_written = count > 0;
    at += is_written ? static_cast<size_t>(count) : 0;
  }
  if (file >= 0) {
    fchmod(file, 0644);
    close(file);
  }
  if (!is_written || rename(partial.c_str(), path.c_str()) != 0) {
    if (file >= 0) unlink(partial.c_str());
    throw Error("cannot write the library cache `" + folder.string() +
                "`; pass another folder as cache_dir, or set XDG_CACHE_HOME");
  }
  return path;
}

inline void* open_library(const std::filesystem::path& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!library) throw Error(std::string("a library cannot be loaded: ") + dlerror());
  return library;
}

// The compiled code, and the call that lends it the threads of our pool.
struct Code {
  tvm::ffi::Module module;
  PoolCall call;
};

inline Code load_code(const Artifact& artifact, const std::filesystem::path& cache_dir) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  auto needs = artifact.manifest["requirements"].cast<json::Object>();
  for (const auto& name : needs["runtime"].cast<json::Array>())
    open_library(extract(artifact, std::string(name.cast<tvm::ffi::String>()), cache_dir));
  void* pool = open_library(extract(artifact, "threadpool.so", cache_dir));
  std::string path = extract(artifact, "model.so", cache_dir).string();
  auto module = tvm::ffi::Module::LoadFromFile(path);
  void* library = open_library(path);
  // Parallel loops of the model run in our pool instead of TVM's; a model without any has no slot.
  const std::pair<const char*, const char*> slots[] = {
      {"__TVMBackendParallelLaunch", "relaxc_pool_launch"},
      {"__TVMBackendParallelBarrier", "relaxc_pool_barrier"}};
  for (auto [slot, function] : slots)
    if (void** found = static_cast<void**>(dlsym(library, slot))) *found = dlsym(pool, function);
  auto call = reinterpret_cast<PoolCall>(dlsym(pool, "relaxc_pool_call"));
  if (!call) throw Error("`" + artifact.path + "` was made by another relaxc; compile it again");
  return {module, call};
}

}  // namespace relaxc
