// Launches of kernels compiled ahead of time (kgfast/kernels/triton/ahead_of_time), by the driver API. libcuda is opened
// when it is first needed, so the module imports on a machine without a driver, and is built without CUDA's headers.
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_bindings.h"
#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace py = pybind11;

namespace {

using Result = int;                                        // CUresult
constexpr int kMaxDynamicShared = 8, kPreferredCarveout = 9;  // CUfunction_attribute

struct Driver {
  void* library = nullptr;
  std::string reason;  // why it can't be used; empty if it can
  Result (*init)(unsigned) = nullptr;
  Result (*error_string)(Result, const char**) = nullptr;
  Result (*device)(int*, int) = nullptr;
  Result (*retain)(void**, int) = nullptr;
  Result (*current)(void**) = nullptr;
  Result (*make_current)(void*) = nullptr;
  Result (*load)(void**, const void*) = nullptr;
  Result (*unload)(void*) = nullptr;
  Result (*function)(void**, void*, const char*) = nullptr;
  Result (*set_attribute)(void*, int, int) = nullptr;
  Result (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) = nullptr;

  template <class F> void find(F& function_pointer, const char* name) {
#if defined(__linux__)
    function_pointer = reinterpret_cast<F>(dlsym(library, name));
#endif
    if (!function_pointer && reason.empty()) reason = std::string("libcuda.so.1 has no ") + name;
  }
  Driver() {
#if defined(__linux__)
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      reason = "no NVIDIA driver (libcuda.so.1 can't be opened)";
      return;
    }
    find(init, "cuInit"), find(error_string, "cuGetErrorString"), find(device, "cuDeviceGet"), find(retain, "cuDevicePrimaryCtxRetain");
    find(current, "cuCtxGetCurrent"), find(make_current, "cuCtxSetCurrent"), find(load, "cuModuleLoadData"), find(unload, "cuModuleUnload");
    find(function, "cuModuleGetFunction"), find(set_attribute, "cuFuncSetAttribute"), find(launch, "cuLaunchKernel");
    if (reason.empty() && init(0) != 0) reason = "the NVIDIA driver finds no device";
#else
    reason = "kernels are launched by the driver API under Linux only";
#endif
  }
};
Driver& driver() {
  static Driver one;
  return one;
}
void check(Result result, const char* what) {
  if (result == 0) return;
  const char* text = nullptr;
  driver().error_string(result, &text);
  throw std::runtime_error(std::string(what) + ": " + (text ? text : "CUDA error " + std::to_string(result)));
}
void need_driver() {
  if (!driver().reason.empty()) throw std::runtime_error(driver().reason);
}

// A function of a loaded module, and how its parameters lie one after the other: 'p' address, 'i' int32, 'l' int64, 'f' float,
// 'd' double.
class Kernel {
 public:
  Kernel(const std::string& image, const std::string& name, const std::string& parameters, unsigned threads, unsigned shared_bytes, int device)
      : parameters_(parameters), threads_(threads), shared_bytes_(shared_bytes) {
    if (parameters.size() > kMost) throw std::invalid_argument(name + " has more than 64 parameters");
    need_driver();
    int handle = 0;
    check(driver().device(&handle, device), "device");
    check(driver().retain(&context_, handle), "context");  // torch's own, which lasts as long as the process
    enter();
    check(driver().load(&module_, image.data()), name.c_str());
    check(driver().function(&function_, module_, name.c_str()), name.c_str());
    if (shared_bytes > (48 << 10)) {
      check(driver().set_attribute(function_, kMaxDynamicShared, int(shared_bytes)), name.c_str());
      check(driver().set_attribute(function_, kPreferredCarveout, 100), name.c_str());
    }
  }
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  ~Kernel() { driver().unload(module_); }

  void launch(unsigned x, unsigned y, unsigned z, uintptr_t stream, const py::tuple& arguments) const {
    uint64_t values[kMost];
    void* addresses[kMost];
    pack(arguments, values);
    for (size_t i = 0; i < parameters_.size(); ++i) addresses[i] = values + i;
    py::gil_scoped_release free;
    enter();
    check(driver().launch(function_, x, y, z, threads_, 1, 1, shared_bytes_, reinterpret_cast<void*>(stream), addresses, nullptr), "launch");
  }

  // For tests without a driver: what launch would hand over.
  static std::vector<uint64_t> packed(const std::string& parameters, const py::tuple& arguments) {
    uint64_t values[kMost];
    if (parameters.size() > kMost) throw std::invalid_argument("more than 64 parameters");
    pack(parameters, arguments, values);
    return {values, values + parameters.size()};
  }

 private:
  static constexpr size_t kMost = 64;
  // A thread that has not used CUDA yet has no context.
  void enter() const {
    void* current = nullptr;
    check(driver().current(&current), "context");
    if (!current) check(driver().make_current(context_), "context");
  }
  void pack(const py::tuple& arguments, uint64_t* values) const { pack(parameters_, arguments, values); }
  static void pack(const std::string& parameters, const py::tuple& arguments, uint64_t* values) {
    if (arguments.size() != parameters.size())
      throw std::invalid_argument("a kernel of " + std::to_string(parameters.size()) + " parameters got " + std::to_string(arguments.size()));
    for (size_t i = 0; i < parameters.size(); ++i) {
      values[i] = 0;
      switch (parameters[i]) {
        case 'p': put(values + i, arguments[i].cast<uintptr_t>()); break;
        case 'i': put(values + i, arguments[i].cast<int32_t>()); break;
        case 'l': put(values + i, arguments[i].cast<int64_t>()); break;
        case 'f': put(values + i, arguments[i].cast<float>()); break;
        case 'd': put(values + i, arguments[i].cast<double>()); break;
        default: throw std::invalid_argument(std::string("parameter type ") + parameters[i] + " is unknown");
      }
    }
  }
  template <class T> static void put(uint64_t* where, T value) { std::memcpy(where, &value, sizeof(T)); }

  std::string parameters_;
  unsigned threads_, shared_bytes_;
  void *context_ = nullptr, *module_ = nullptr, *function_ = nullptr;
};

}  // namespace

void bind_driver(py::module_& parent) {
  py::module_ m = parent.def_submodule("driver", "Kernels compiled ahead of time, launched by CUDA's driver API");
  m.def("reason", [] { return driver().reason; }, "Why the driver can't be used; empty if it can");
  m.def("packed", &Kernel::packed);
  py::class_<Kernel>(m, "Kernel")
      .def(py::init([](const py::bytes& image, const std::string& name, const std::string& parameters, unsigned threads, unsigned shared_bytes, int device) {
        return new Kernel(std::string(image), name, parameters, threads, shared_bytes, device);
      }))
      .def("launch", &Kernel::launch);
}
