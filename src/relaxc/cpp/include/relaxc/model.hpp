// A loaded artifact, ready to run.
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "artifact.hpp"
#include "libraries.hpp"
#include "machine.hpp"
#include "tensors.hpp"

namespace relaxc {

struct Options {
  int threads = 0;        // per run; 0: one per physical core that the process may use
  std::string cache_dir;  // for the extracted libraries; the user's cache folder by default
};

// An input or an output. A dimension is a number, or the name or expression of a symbolic one.
struct TensorInfo {
  std::string name, dtype;
  std::vector<std::string> shape;

  std::string text() const {
    std::string dims;
    for (const auto& dim : shape) dims += (dims.empty() ? "" : ", ") + dim;
    return name + ": " + dtype + "[" + dims + "]";
  }
};

namespace detail {

// A caller's turn: in the whole process as many compute at a time as there are cores.
class Turn {
 public:
  Turn() {
    std::unique_lock<std::mutex> lock(places().mutex);
    places().changed.wait(lock, [] { return places().free > 0; });
    --places().free;
  }
  ~Turn() {
    {
      std::lock_guard<std::mutex> lock(places().mutex);
      ++places().free;
    }
    places().changed.notify_one();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  struct Places {
    std::mutex mutex;
    std::condition_variable changed;
    int free = machine::available_cores();
  };
  static Places& places() {
    static Places all;
    return all;
  }
};

// A virtual machine and the memory of its intermediate results: serves one call at a time.
struct Runner {
  tvm::ffi::Function main;
  Tensor memory;
  std::vector<Tensor> workspace;
  tvm::ffi::Any machine;

  bool owns(const void* address) const {
    auto* start = static_cast<const char*>(memory.data_ptr());
    auto* byte = static_cast<const char*>(address);
    return byte >= start && byte < start + memory.size(0);
  }
};

inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace detail

// Any number of threads may call one model at the same time.
class Model {
 public:
  // Throws Error: the file is missing or damaged, or this machine lacks what it needs.
  explicit Model(const std::string& path, const Options& options = {})
      : artifact_(std::make_shared<Artifact>(path)),
        threads_(options.threads > 0 ? options.threads : machine::available_cores()) {
    try {
      require_this_machine();
      inputs_ = infos("inputs");
      outputs_ = infos("outputs");
      map_weights();
      code_ = load_code(*artifact_, options.cache_dir.empty() ? default_cache_dir()
                                                              : std::filesystem::path(options.cache_dir));
      idle_.push_back(new_runner());
    } catch (const tvm::ffi::Error& err) {
      throw Error("`" + path + "` cannot be loaded: " + detail::first_line(err.message()));
    }
  }

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }
  int threads() const { return threads_; }

  // Run on the inputs in their order. Throws Error: one has another type or shape.
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs) {
    require_fit(inputs);
    try {
      detail::Turn turn;
      auto runner = take_runner();
      auto results = run(*runner, inputs);
      std::lock_guard<std::mutex> lock(mutex_);
      idle_.push_back(std::move(runner));
      return results;
    } catch (const tvm::ffi::Error& err) {
      throw Error("`" + artifact_->path + "` fails on these inputs: " +
                  detail::first_line(err.message()));
    }
  }

  // Run on named inputs.
  std::map<std::string, Tensor> operator()(const std::map<std::string, Tensor>& feed) {
    std::vector<Tensor> ordered;
    for (const auto& info : inputs_) {
      auto found = feed.find(info.name);
      if (found == feed.end()) throw Error("input `" + info.name + "` is missing; it is " + info.text());
      ordered.push_back(found->second);
    }
    if (feed.size() != inputs_.size()) throw Error("there are inputs that the model does not know");
    auto results = (*this)(ordered);
    std::map<std::string, Tensor> named;
    for (size_t i = 0; i < results.size(); ++i) named[outputs_[i].name] = results[i];
    return named;
  }

 private:
  void require_this_machine() const {
    const auto& manifest = artifact_->manifest;
    const std::string name = "`" + artifact_->path + "`";
    if (manifest.count("program"))
      throw Error(name + " runs in steps on the host, which this library cannot; use Python");
    auto needs = manifest["requirements"].cast<json::Object>();
    if (needs.count("cuda")) throw Error(name + " is for a GPU, which this library cannot use yet");
    std::string built(needs["architecture"].cast<tvm::ffi::String>());
    if (built != machine::architecture())
      throw Error(name + " is built for " + built + ", this machine is " + machine::architecture());
    auto has = machine::features();
    std::string missing;
    for (const auto& entry : needs["cpu_features"].cast<json::Array>()) {
      std::string feature(entry.cast<tvm::ffi::String>());
      if (!has.count(machine::plain(feature))) missing += (missing.empty() ? "" : ", ") + feature;
    }
    if (!missing.empty())
      throw Error(name + " needs CPU features that this machine lacks: " + missing +
                  "; compile it for an older CPU such as `--target \"llvm -mcpu=x86-64-v3\"`");
  }

  std::vector<TensorInfo> infos(const char* side) const {
    std::vector<TensorInfo> found;
    for (const auto& entry : artifact_->manifest[side].cast<json::Array>()) {
      auto facts = entry.cast<json::Object>();
      TensorInfo info{std::string(facts["name"].cast<tvm::ffi::String>()),
                      std::string(facts["dtype"].cast<tvm::ffi::String>()), {}};
      for (const auto& dim : facts["shape"].cast<json::Array>()) {
        auto size = dim.try_cast<int64_t>();
        info.shape.push_back(size ? std::to_string(*size)
                                  : std::string(dim.cast<tvm::ffi::String>()));
      }
      found.push_back(std::move(info));
    }
    return found;
  }

  static Shape shape_of(const json::Object& entry) {
    Shape shape;
    for (const auto& dim : entry["shape"].cast<json::Array>()) shape.push_back(dim.cast<int64_t>());
    return shape;
  }
  static DLDataType dtype_of(const json::Object& entry) {
    return tvm::ffi::StringToDLDataType(entry["dtype"].cast<tvm::ffi::String>());
  }

  void map_weights() {
    if (!artifact_->has("weights.bin")) return;
    auto* start = const_cast<char*>(artifact_->member("weights.bin").data());
    for (const auto& value : artifact_->manifest["weights"].cast<json::Array>()) {
      auto entry = value.cast<json::Object>();
      detail::Lent lent{artifact_, start + entry["offset"].cast<int64_t>()};
      Shape shape = shape_of(entry);
      weights_.push_back(
          Tensor::FromNDAlloc(lent, detail::view_of(shape), dtype_of(entry), {kDLCPU, 0}));
    }
  }

  std::unique_ptr<detail::Runner> new_runner() const {
    auto made = std::make_unique<detail::Runner>();
    auto machine = code_->module->GetFunction("vm_load_executable").value()().cast<tvm::ffi::Module>();
    const int kCpu = kDLCPU, kFirst = 0, kPooled = 2;
    machine->GetFunction("vm_initialization").value()(kCpu, kFirst, kPooled);
    made->main = machine->GetFunction("main").value();
    made->machine = machine;
    auto layout = artifact_->manifest["workspace"].cast<json::Object>();
    std::vector<int64_t> starts{0};
    for (const auto& size : layout["storages"].cast<json::Array>()) {
      int64_t lines = (size.cast<int64_t>() + kAlignment - 1) / kAlignment;
      starts.push_back(starts.back() + lines * static_cast<int64_t>(kAlignment));
    }
    made->memory = empty({starts.back()}, {kDLUInt, 8, 1});
    auto* memory = static_cast<char*>(made->memory.data_ptr());
    for (const auto& value : layout["tensors"].cast<json::Array>()) {
      auto entry = value.cast<json::Object>();
      char* at = memory + starts[entry["storage"].cast<int64_t>()] + entry["offset"].cast<int64_t>();
      Shape shape = shape_of(entry);
      made->workspace.push_back(Tensor::FromNDAlloc(detail::Lent{nullptr, at}, detail::view_of(shape),
                                                    dtype_of(entry), {kDLCPU, 0}));
    }
    return made;
  }

  std::unique_ptr<detail::Runner> take_runner() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        auto runner = std::move(idle_.back());
        idle_.pop_back();
        return runner;
      }
    }
    return new_runner();
  }

  void require_fit(const std::vector<Tensor>& inputs) const {
    if (inputs.size() != inputs_.size())
      throw Error("the model takes " + std::to_string(inputs_.size()) + " inputs, " +
                  std::to_string(inputs.size()) + " were given");
    std::map<std::string, std::string> symbols;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto& info = inputs_[i];
      std::string dtype(tvm::ffi::DLDataTypeToString(inputs[i].dtype()));
      if (dtype != info.dtype)
        throw Error("input `" + info.name + "` must be " + info.dtype + ", not " + dtype);
      bool fits = inputs[i].ndim() == static_cast<int>(info.shape.size());
      std::string given;
      for (int axis = 0; axis < inputs[i].ndim(); ++axis) {
        std::string size = std::to_string(inputs[i].size(axis));
        given += (axis ? ", " : "") + size;
        if (!fits) continue;
        const std::string& dim = info.shape[axis];
        bool is_fixed = dim.find_first_not_of("0123456789") == std::string::npos;
        fits = size == (is_fixed ? dim : symbols.emplace(dim, size).first->second);
      }
      if (!fits || !inputs[i].IsContiguous())
        throw Error("input must be " + info.text() + " in C order, not of shape [" + given + "]");
    }
  }

  std::vector<Tensor> run(detail::Runner& runner, const std::vector<Tensor>& inputs) {
    std::vector<Tensor> held;
    std::vector<tvm::ffi::AnyView> args;
    for (const auto& input : inputs) held.push_back(aligned(input));
    for (const auto& tensor : held) args.emplace_back(tensor);
    for (const auto& tensor : weights_) args.emplace_back(tensor);
    for (const auto& tensor : runner.workspace) args.emplace_back(tensor);
    tvm::ffi::Any result;
    int all_cores = std::max(threads_, machine_cores_);
    auto* handle = const_cast<tvm::ffi::Object*>(static_cast<const tvm::ffi::Object*>(runner.main.get()));
    TVM_FFI_CHECK_SAFE_CALL(code_->call(threads_, all_cores, TVMFFIFunctionCall, handle,
                                       reinterpret_cast<const TVMFFIAny*>(args.data()),
                                       static_cast<int32_t>(args.size()),
                                       reinterpret_cast<TVMFFIAny*>(&result)));
    std::vector<Tensor> results;
    if (auto one = result.try_cast<Tensor>()) {
      results.push_back(detached(*one, runner, held));
    } else {
      for (const auto& value : result.cast<tvm::ffi::Array<tvm::ffi::Any>>())
        results.push_back(detached(value.cast<Tensor>(), runner, held));
    }
    return results;
  }

  // Compiled code reads whole vectors: inputs that lie anywhere are copied.
  static Tensor aligned(const Tensor& input) {
    if (reinterpret_cast<uintptr_t>(input.data_ptr()) % kAlignment == 0) return input;
    return duplicate(input);
  }
  static Tensor duplicate(const Tensor& tensor) {
    Shape shape(tensor.shape().begin(), tensor.shape().end());
    Tensor made = empty(shape, tensor.dtype());
    std::memcpy(made.data_ptr(), tensor.data_ptr(), tvm::ffi::GetDataSize(*tensor.GetDLTensorPtr()));
    return made;
  }
  // A result may lie where the next run writes, or be an input or a weight.
  Tensor detached(const Tensor& result, const detail::Runner& runner,
                  const std::vector<Tensor>& inputs) const {
    const void* at = result.data_ptr();
    bool is_shared = runner.owns(at) || artifact_->contains(at);
    for (const auto& input : inputs) {
      auto* start = static_cast<const char*>(input.data_ptr());
      size_t size = tvm::ffi::GetDataSize(*input.GetDLTensorPtr());
      is_shared |= at >= start && at < start + size;
    }
    return is_shared ? duplicate(result) : result;
  }

  std::shared_ptr<Artifact> artifact_;
  int threads_;
  int machine_cores_ = machine::available_cores();
  std::vector<TensorInfo> inputs_, outputs_;
  std::vector<Tensor> weights_;
  std::optional<Code> code_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<detail::Runner>> idle_;
};

}  // namespace relaxc
