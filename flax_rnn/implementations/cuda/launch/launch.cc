// Launches compiled kernels through CUDA's driver: the function that XLA calls, and what
// flax_rnn.implementations.cuda.library asks ahead of its first call.
//
// Any C++ compiler builds it: of CUDA it needs neither headers nor libraries. The driver is opened when it is first
// asked for, and the little of its cuda.h that is needed is declared here.

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace flax_rnn {
namespace {

namespace ffi = xla::ffi;

using Handle = void*;  // of a stream, a context, a module or a function

// CUlaunchAttribute, with the one value that is set.
struct alignas(8) Attribute {
  int id;
  char pad[4];
  unsigned cluster[3];
  char rest[52];
};

// CUlaunchConfig.
struct Configuration {
  unsigned grid[3], block[3], shared;
  Handle stream;
  const Attribute* attributes;
  unsigned count;
};

static_assert(sizeof(Attribute) == 72 && sizeof(Configuration) == 56, "as in cuda.h");

constexpr int kClusterDimension = 4;     // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
constexpr int kMaxSharedMemory = 8;      // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kNonPortableCluster = 14;  // CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
constexpr int kCaptureRelaxed = 2;       // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr unsigned kPortableCluster = 8;

// The functions of the driver; those after `absent` may be called if that is empty.
struct Driver {
  std::string absent;  // why there is none, in words
  int (*error_name)(int, const char**);
  int (*stream_context)(Handle, Handle*);
  int (*push_context)(Handle);
  int (*pop_context)(Handle*);
  int (*exchange_capture_mode)(int*);
  int (*load_module)(Handle*, const void*);
  int (*get_function)(Handle*, Handle, const char*);
  int (*set_attribute)(Handle, int, int);
  int (*launch)(const Configuration*, Handle, void**, void**);
  int (*max_active_clusters)(int*, Handle, const Configuration*);  // or null: not all drivers have it

  Driver() {
    const char* chosen = std::getenv("FLAX_RNN_CUDA_DRIVER");
    library_ = dlopen(chosen != nullptr && *chosen != '\0' ? chosen : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) {
      absent = std::string("there is no CUDA driver (") + dlerror() + "): install NVIDIA's";
      return;
    }
    Find("cuGetErrorName", error_name);
    Find("cuStreamGetCtx", stream_context);
    Find("cuCtxPushCurrent_v2", push_context);
    Find("cuCtxPopCurrent_v2", pop_context);
    Find("cuThreadExchangeStreamCaptureMode", exchange_capture_mode);
    Find("cuModuleLoadData", load_module);
    Find("cuModuleGetFunction", get_function);
    Find("cuFuncSetAttribute", set_attribute);
    Find("cuLaunchKernelEx", launch);
    max_active_clusters =
        reinterpret_cast<decltype(max_active_clusters)>(dlsym(library_, "cuOccupancyMaxActiveClusters"));
  }

 private:
  template <typename Function>
  void Find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library_, name));
    if (function == nullptr)
      absent = std::string("the CUDA driver is too old (it has no ") + name + "): install one for CUDA 12 or newer";
  }

  Handle library_;
};

// Neither it nor what it has loaded is ever given back: at the end of a process XLA may still run.
const Driver& TheDriver() {
  static const Driver& driver = *new Driver;
  return driver;
}

struct Kernel {
  std::string_view cubin, name;
  unsigned grid, block, cluster, shared;
};

// What was asked for, in words.
std::string Text(const Kernel& kernel) {
  std::string text = std::string(kernel.name) + " on " + std::to_string(kernel.grid) + " blocks";
  if (kernel.cluster > 1) text += " in clusters of " + std::to_string(kernel.cluster);
  return text + ", each of " + std::to_string(kernel.block) + " threads and " + std::to_string(kernel.shared) +
         " bytes of shared memory";
}

// Throws if a function of the driver did not do what it should.
void Check(int result, const char* function, const Kernel& kernel) {
  if (result == 0) return;
  const char* name = nullptr;
  TheDriver().error_name(result, &name);
  throw std::runtime_error(std::string(function) + ": " + (name != nullptr ? name : std::to_string(result).c_str()) +
                           ", for " + Text(kernel));
}

// While it lives, its context is that of the thread, which may load into it even where XLA records launches.
class Loading {
 public:
  Loading(Handle context, const Kernel& kernel) {
    Check(TheDriver().push_context(context), "cuCtxPushCurrent", kernel);
    TheDriver().exchange_capture_mode(&mode_);
  }
  ~Loading() {
    TheDriver().exchange_capture_mode(&mode_);
    TheDriver().pop_context(nullptr);
  }
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

 private:
  int mode_ = kCaptureRelaxed;  // then that of before
};

Handle Load(Handle context, const Kernel& kernel, const Configuration& configuration) {
  const Driver& driver = TheDriver();
  const Loading loading(context, kernel);
  Handle module = nullptr, function = nullptr;
  Check(driver.load_module(&module, kernel.cubin.data()), "cuModuleLoadData", kernel);
  Check(driver.get_function(&function, module, std::string(kernel.name).c_str()), "cuModuleGetFunction", kernel);
  Check(driver.set_attribute(function, kMaxSharedMemory, int(kernel.shared)), "cuFuncSetAttribute", kernel);
  if (kernel.cluster > kPortableCluster)
    Check(driver.set_attribute(function, kNonPortableCluster, 1), "cuFuncSetAttribute", kernel);
  if (kernel.cluster > 1 && driver.max_active_clusters != nullptr) {
    int clusters = 0;
    Check(driver.max_active_clusters(&clusters, function, &configuration), "cuOccupancyMaxActiveClusters", kernel);
    if (clusters == 0) throw std::runtime_error("this GPU has room for no such cluster: " + Text(kernel));
  }
  return function;
}

// Loads each kernel once for each context, which is that of a device.
Handle FunctionOf(Handle context, const Kernel& kernel, const Configuration& configuration) {
  using Key = std::tuple<Handle, unsigned, unsigned, unsigned, std::string, std::string>;
  static std::mutex& mutex = *new std::mutex;
  static auto& functions = *new std::map<Key, Handle, std::less<>>;
  // Of views, so that nothing is copied to look for it.
  const std::tuple key(context, kernel.block, kernel.cluster, kernel.shared, kernel.name, kernel.cubin);
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = functions.find(key);
  if (found == functions.end()) found = functions.emplace(Key(key), Load(context, kernel, configuration)).first;
  return found->second;
}

// The kernel takes pointers to all operands, then to all results, then the scalars.
void Launch(Handle stream, const Kernel& kernel, ffi::Span<const int32_t> scalars, ffi::RemainingArgs operands,
            ffi::RemainingRets results) {
  const Driver& driver = TheDriver();
  if (!driver.absent.empty()) throw std::runtime_error(driver.absent);

  std::vector<void*> arrays, parameters;
  for (size_t index = 0; index < operands.size(); ++index)
    arrays.push_back(operands.get<ffi::AnyBuffer>(index)->untyped_data());
  for (size_t index = 0; index < results.size(); ++index)
    arrays.push_back((*results.get<ffi::AnyBuffer>(index))->untyped_data());
  for (void*& array : arrays) parameters.push_back(&array);
  for (const int32_t& scalar : scalars) parameters.push_back(const_cast<int32_t*>(&scalar));

  const Attribute attribute{kClusterDimension, {}, {kernel.cluster, 1, 1}, {}};
  const Configuration configuration{{kernel.grid, 1, 1}, {kernel.block, 1, 1}, kernel.shared, stream,
                                    &attribute,          kernel.cluster > 1};
  Handle context = nullptr;
  Check(driver.stream_context(stream, &context), "cuStreamGetCtx", kernel);
  const Handle function = FunctionOf(context, kernel, configuration);
  Check(driver.launch(&configuration, function, parameters.data(), nullptr), "cuLaunchKernelEx", kernel);
}

ffi::Error Run(Handle stream, std::string_view cubin, std::string_view name, int32_t grid, int32_t block,
               int32_t cluster, int32_t shared, ffi::Span<const int32_t> scalars, ffi::RemainingArgs operands,
               ffi::RemainingRets results) noexcept {
  try {
    Launch(stream, {cubin, name, unsigned(grid), unsigned(block), unsigned(cluster), unsigned(shared)}, scalars,
           operands, results);
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

// For tests, on a CPU with a stand-in for the driver.
constexpr auto kRunOnHost = [](auto... arguments) { return Run(nullptr, arguments...); };

template <typename Binding>
auto Arguments(Binding&& binding) {
  return std::move(binding)
      .template Attr<std::string_view>("cubin")
      .template Attr<std::string_view>("name")
      .template Attr<int32_t>("grid")
      .template Attr<int32_t>("block")
      .template Attr<int32_t>("cluster")
      .template Attr<int32_t>("shared")
      .template Attr<ffi::Span<const int32_t>>("scalars")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnCudaLaunch, Run, Arguments(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<Handle>>()),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(FlaxRnnCudaLaunchOnHost, kRunOnHost, Arguments(ffi::Ffi::Bind()));

// Raised, here and in library.py, whenever the handlers take something else.
extern "C" int64_t FlaxRnnCudaInterface() { return 1; }

// The digest of this file, which setup.py hands over.
extern "C" const char* FlaxRnnCudaDigest() { return FLAX_RNN_DIGEST; }

// Why there is no driver, in words; null if there is one.
extern "C" const char* FlaxRnnCudaDriverAbsent() {
  const std::string& absent = TheDriver().absent;
  return absent.empty() ? nullptr : absent.c_str();
}

}  // namespace flax_rnn
