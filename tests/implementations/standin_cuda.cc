// A stand-in for CUDA's driver, for tests without a GPU: a launch calls a function of a library on the CPU.
//
// Machine code that is an absolute path behind the first bytes of an ELF file names the library. For other code the
// environment variable FLAX_RNN_STANDIN_KERNELS does, which is read whenever a module is loaded. The kernel `name` is
// its function `name_launch`, which returns 0 if all went well; its variable `standin_image`, if there is one, is set
// to the machine code. What a driver would refuse is refused: sizes that an H100 does not have, and calls in the wrong
// order. FLAX_RNN_STANDIN_CLUSTERS says how many clusters fit on the device.
// With -DWITHOUT_LAUNCH it is a driver as they were before there were clusters.

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace {

enum Error {
  kInvalidValue = 1,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kLibraryNotFound = 303,
  kNotFound = 500,
  kLaunchFailed = 719,
  kCaptureUnsupported = 900,
  kInvalidClusterSize = 912,
};

const std::map<int, const char*> kNames = {
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
    {kLibraryNotFound, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {kInvalidClusterSize, "CUDA_ERROR_INVALID_CLUSTER_SIZE"},
};

struct Attribute {
  int id;
  char pad[4];
  unsigned cluster[3];
  char rest[52];
};

struct Configuration {
  unsigned grid[3], block[3], shared;
  void* stream;
  const Attribute* attributes;
  unsigned count;
};

using Launch = int (*)(void** parameters, unsigned grid, unsigned cluster, unsigned block, unsigned shared);

struct Function {
  Launch launch;
  unsigned shared = 48 << 10;  // the most that may be asked for, until set_attribute says otherwise
  unsigned cluster = 8;
};

int the_context;
// Of a thread that is recording what it launches: there is no context, and nothing may be loaded.
thread_local void* current = nullptr;
thread_local int mode = 1;

unsigned ClusterOf(const Configuration* configuration) {
  for (unsigned index = 0; index < configuration->count; ++index)
    if (configuration->attributes[index].id == 4) return configuration->attributes[index].cluster[0];
  return 1;
}

// What the sizes of a launch are refused for; 0 if they are right.
int Refused(const Configuration* configuration, const Function* function) {
  const unsigned cluster = ClusterOf(configuration), grid = configuration->grid[0], block = configuration->block[0];
  if (cluster == 0 || cluster > function->cluster || grid % cluster != 0) return kInvalidClusterSize;
  if (grid == 0 || block == 0 || block > 1024 || configuration->shared > function->shared) return kInvalidValue;
  return 0;
}

}  // namespace

extern "C" {

int cuGetErrorName(int error, const char** name) {
  const auto known = kNames.find(error);
  *name = known == kNames.end() ? nullptr : known->second;
  return *name == nullptr ? kInvalidValue : 0;
}

int cuStreamGetCtx(void*, void** context) {
  *context = &the_context;
  return 0;
}

int cuCtxPushCurrent_v2(void* context) {
  if (context != &the_context || current != nullptr) return kInvalidContext;
  current = context;
  return 0;
}

int cuCtxPopCurrent_v2(void**) {
  current = nullptr;
  return 0;
}

int cuThreadExchangeStreamCaptureMode(int* other) {
  const int before = mode;
  mode = *other;
  *other = before;
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  if (current == nullptr) return kInvalidContext;
  if (mode != 2) return kCaptureUnsupported;
  if (std::memcmp(image,
                  "\x7f"
                  "ELF",
                  4) != 0)
    return kInvalidImage;
  const char* path = static_cast<const char*>(image) + 4;
  if (*path != '/') path = std::getenv("FLAX_RNN_STANDIN_KERNELS");
  *module = path == nullptr ? nullptr : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (*module == nullptr) return kLibraryNotFound;
  if (auto* seen = static_cast<const void**>(dlsym(*module, "standin_image"))) *seen = image;
  return 0;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
  void* launch = dlsym(module, (std::string(name) + "_launch").c_str());
  if (launch == nullptr) return kNotFound;
  *function = new Function{reinterpret_cast<Launch>(launch)};
  return 0;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
  auto* changed = static_cast<Function*>(function);
  if (attribute == 8 && value >= 0 && value <= 227 << 10)
    changed->shared = unsigned(value);
  else if (attribute == 14)
    changed->cluster = 16;
  else
    return kInvalidValue;
  return 0;
}

int cuOccupancyMaxActiveClusters(int* clusters, void* function, const Configuration* configuration) {
  const char* said = std::getenv("FLAX_RNN_STANDIN_CLUSTERS");
  *clusters = said == nullptr ? 8 : std::atoi(said);
  return Refused(configuration, static_cast<Function*>(function));
}

#ifndef WITHOUT_LAUNCH
int cuLaunchKernelEx(const Configuration* configuration, void* function, void** parameters, void**) {
  if (mode == 2) return kCaptureUnsupported;  // what is launched now would not be recorded
  const auto* launched = static_cast<Function*>(function);
  if (const int refused = Refused(configuration, launched)) return refused;
  const int failed = launched->launch(parameters, configuration->grid[0], ClusterOf(configuration),
                                      configuration->block[0], configuration->shared);
  return failed != 0 ? kLaunchFailed : 0;
}
#endif

}  // extern "C"
