// A stand-in for the CUDA runtime, preloaded in its place: two devices whose memory is the host's,
// whose kernels are those that ptx.py translates, and whose streams are as late as CUDA allows. An
// operation runs when something has to wait for it and not before, so that whoever frees, reuses or
// reads memory too early does so here every time.
//
// It knows the calls that torch makes for tensors, streams, events, pinned memory and graphs. Of
// torch's own kernels it knows the one that fills contiguous memory.
#include <cstdlib>
#include <cstring>

#include "state.h"

using namespace standin;

namespace {

cudaError_t allocate(void** pointer, size_t bytes, cudaMemoryType type) {
  *pointer = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  if (*pointer == nullptr) return fails(cudaErrorMemoryAllocation);
  if (bytes < (size_t{1} << 28)) std::memset(*pointer, kPoison, bytes);
  state().allocations[static_cast<char*>(*pointer)] = {bytes, type, current_device};
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  state().run_all();
  const auto found = state().allocations.find(static_cast<char*>(pointer));
  if (found == state().allocations.end()) return fails(cudaErrorInvalidValue);
  if (found->second.bytes < (size_t{1} << 28)) std::memset(pointer, kPoison, found->second.bytes);
  state().allocations.erase(found);
  std::free(pointer);
  return cudaSuccess;
}

bool pageable(const void* pointer) { return state().holding(pointer) == nullptr; }

}  // namespace

#define LOCKED const std::lock_guard<std::recursive_mutex> lock(state().mutex)

extern "C" {

void** __cudaRegisterFatBinary(void* binary) { return new void*(binary); }
void __cudaRegisterFatBinaryEnd(void** /*handle*/) {}
void __cudaUnregisterFatBinary(void** /*handle*/) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void** /*handle*/, const char* function, char* /*device_function*/,
                            const char* name, int, void*, void*, void*, void*, int*) {
  LOCKED;
  state().names[function] = name;
}

thread_local dim3 configured_grid, configured_block;
thread_local size_t configured_shared;
thread_local cudaStream_t configured_stream;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configured_grid = grid;
  configured_block = block;
  configured_shared = shared;
  configured_stream = stream;
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configured_grid;
  *block = configured_block;
  *shared = configured_shared;
  *static_cast<cudaStream_t*>(stream) = configured_stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t /*shared*/, cudaStream_t stream) {
  LOCKED;
  return launch(kernel, grid, block, arguments, stream);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t /*shared*/, cudaStream_t stream) {
  LOCKED;
  return launch(function, grid, block, arguments, stream);
}

// For tests.
void standin_fail_next_launch() { next_launch_fails = true; }

// ------------------------------------------------------------------------------------ devices

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return fails(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  *properties = {};
  std::strcpy(properties->name, "stand-in");
  properties->major = 9;
  properties->totalGlobalMem = kMemory;
  properties->multiProcessorCount = kMultiprocessors;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerBlock = 48 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  for (int& size : properties->maxGridSize) size = 65535;
  properties->maxGridSize[0] = 0x7fffffff;
  for (int& size : properties->maxThreadsDim) size = 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = kMultiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    default:
      *value = 0;
      return cudaSuccess;
  }
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int /*device*/, int /*peer*/) {
  *can = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int /*peer*/, unsigned /*flags*/) { return cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                   size_t, unsigned) {
  *blocks = kResidentBlocks;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = kResidentBlocks;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = nullptr;
  if (result != nullptr) *result = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// Of the driver, whose name this library has, torch asks whether a device is in use.
int cuDevicePrimaryCtxGetState(int /*device*/, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}

// ------------------------------------------------------------------------------------- errors

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string text;
  text = "stand-in error " + std::to_string(error);
  return text.c_str();
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

// ------------------------------------------------------------------------------------- memory

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  LOCKED;
  return allocate(pointer, bytes, cudaMemoryTypeDevice);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned /*flags*/) {
  LOCKED;
  return allocate(pointer, bytes, cudaMemoryTypeHost);
}
cudaError_t cudaFree(void* pointer) {
  LOCKED;
  return release(pointer);
}
cudaError_t cudaFreeHost(void* pointer) {
  LOCKED;
  return release(pointer);
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = kMemory;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  LOCKED;
  *attributes = {};
  attributes->type = cudaMemoryTypeUnregistered;
  attributes->device = -1;
  if (const Allocation* allocation = state().holding(pointer)) {
    attributes->type = allocation->type;
    attributes->device = allocation->device;
    attributes->devicePointer = attributes->hostPointer = const_cast<void*>(pointer);
  }
  return cudaSuccess;
}

// From memory that the device cannot reach it copies at once, and to it before it returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t handle) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  if (pageable(to) && stream.capture != nullptr) return fails(cudaErrorStreamCaptureUnsupported);
  if (pageable(from)) {
    stream.issue([to, staged = std::string(static_cast<const char*>(from), bytes)] {
      std::memcpy(to, staged.data(), staged.size());
    });
  } else {
    stream.issue([=] { std::memcpy(to, from, bytes); });
  }
  if (pageable(to)) stream.run_until(stream.issued);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  LOCKED;
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  state().stream(nullptr)->run_until(~uint64_t{0});
  return error;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  LOCKED;
  state().stream(stream)->issue([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

// -------------------------------------------------------------------------- streams and events

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned /*flags*/,
                                         int /*priority*/) {
  LOCKED;
  state().streams.push_back(std::make_unique<Stream>());
  *stream = reinterpret_cast<cudaStream_t>(state().streams.back().get());
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamGetPriority(cudaStream_t /*stream*/, int* priority) {
  *priority = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  return stream.done == stream.issued ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  if (stream.capture != nullptr) return fails(cudaErrorStreamCaptureUnsupported);
  stream.run_until(stream.issued);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  LOCKED;
  if (state().capturing()) return fails(cudaErrorStreamCaptureUnsupported);
  state().run_all();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned /*flags*/) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  *reinterpret_cast<Event*>(event) = {&stream, stream.issued, stream.capture};
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}
// Each look sees the device one operation further on.
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  LOCKED;
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.done()) return cudaSuccess;
  event.stream->run_until(event.stream->done + 1);
  return cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  LOCKED;
  reinterpret_cast<Event*>(event)->wait();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1.0F;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t awaited, unsigned /*flags*/) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  const Event event = *reinterpret_cast<Event*>(awaited);
  if (event.capture != nullptr) {
    stream.capture = event.capture;  // joins the capture, whose operations run in turn
  } else if (stream.capture == nullptr) {
    stream.issue([event] { event.wait(); });
  }
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------- graphs

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* /*mode*/) {
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode /*mode*/) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  if (stream.capture != nullptr) return fails(cudaErrorIllegalState);
  stream.capture = new Graph;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  LOCKED;
  const bool captured = state().stream(handle)->capture != nullptr;
  *status = captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  LOCKED;
  Graph* capture = state().stream(handle)->capture;
  *status = capture != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (id != nullptr) *id = reinterpret_cast<uintptr_t>(capture);
  if (graph != nullptr) *graph = reinterpret_cast<cudaGraph_t>(capture);
  if (dependencies != nullptr) *dependencies = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  LOCKED;
  Graph* const capture = state().stream(handle)->capture;
  *graph = reinterpret_cast<cudaGraph_t>(capture);
  for (const auto& each : state().streams) {
    if (each->capture == capture) each->capture = nullptr;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* /*nodes*/, size_t* count) {
  *count = reinterpret_cast<Graph*>(graph)->operations.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long /*flags*/) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  LOCKED;
  Stream& stream = *state().stream(handle);
  for (const Operation& each : reinterpret_cast<Graph*>(executable)->operations) stream.issue(each);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  LOCKED;
  state().run_all();
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}

}  // extern "C"
