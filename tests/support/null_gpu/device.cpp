// A CUDA device that is not there: what torch calls of the runtime, and of the libraries around it,
// to believe in a GPU. Memory is the host's, kernels do nothing, launches, copies and
// synchronisations are counted. Dispatch, autocast's choices, the allocator's peaks, streams, pinning
// and bad drivers can so be tested anywhere; results (emulation.py) on the CPU; times nowhere.
//
// NULL_GPU_DEVICES: how many there are (1). NULL_GPU_OLD_DRIVER: the driver is too old.
// NULL_GPU_MEMORY: bytes that cudaMalloc gives before it is out of memory (all).
// NULL_GPU_MAJOR, NULL_GPU_MINOR: of its compute capability (9, 0).
// Whatever is not here is a function that returns 0 (__init__.py makes them from torch's libraries).
#include <cuda_runtime_api.h>

#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#define API extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t TOTAL = 85520809984ULL;  // of an H100

enum Count { LAUNCHES, SYNCHRONIZATIONS, TO_DEVICE, TO_HOST, UNPINNED, NUM_COUNTS };
std::atomic<long> counts[NUM_COUNTS];

enum Kind { UNKNOWN, DEVICE, PINNED };
struct Block { size_t size; Kind kind; int device; };
// Never destroyed: torch frees memory while the process ends.
std::mutex& mutex() { static auto* m = new std::mutex; return *m; }
std::map<char*, Block>& blocks() { static auto* b = new std::map<char*, Block>; return *b; }
std::atomic<size_t> used{0};
std::atomic<long> next_handle{0x1000};
thread_local int current = 0;

long setting(const char* name, long otherwise) {
  const char* value = getenv(name);
  return value ? atol(value) : otherwise;
}
int num_devices() { static int n = int(setting("NULL_GPU_DEVICES", 1)); return n; }

char* allocate(size_t size, Kind kind) {
  void* found = mmap(nullptr, size ? size : 1, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  std::lock_guard<std::mutex> guard(mutex());
  blocks()[static_cast<char*>(found)] = {size, kind, current};
  if (kind == DEVICE) used += size;
  return static_cast<char*>(found);
}

void release(void* pointer) {
  std::lock_guard<std::mutex> guard(mutex());
  auto found = blocks().find(static_cast<char*>(pointer));
  if (found == blocks().end()) return;
  if (found->second.kind == DEVICE) used -= found->second.size;
  munmap(pointer, found->second.size ? found->second.size : 1);
  blocks().erase(found);
}

Block block_of(const void* pointer) {
  auto* at = static_cast<char*>(const_cast<void*>(pointer));
  std::lock_guard<std::mutex> guard(mutex());
  auto after = blocks().upper_bound(at);
  if (after == blocks().begin()) return {0, UNKNOWN, -1};
  --after;
  return at < after->first + after->second.size ? after->second : Block{0, UNKNOWN, -1};
}

void copy(void* to, const void* from, size_t size) {
  Kind target = block_of(to).kind, source = block_of(from).kind;
  if (target == DEVICE && source != DEVICE) {
    ++counts[TO_DEVICE];
    if (source != PINNED) ++counts[UNPINNED];
  } else if (target != DEVICE && source == DEVICE) {
    ++counts[TO_HOST];
    if (target != PINNED) ++counts[UNPINNED];
  }
  memmove(to, from, size);
}

int nothing() { return 0; }
int primary_context_state(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}
int current_context(void** context) {
  if (context) *context = reinterpret_cast<void*>(1);
  return 0;
}

}  // namespace

API void null_gpu_counts(long* out) { for (int i = 0; i < NUM_COUNTS; ++i) out[i] = counts[i]; }
API void null_gpu_reset() { for (auto& count : counts) count = 0; }

// --- devices ---------------------------------------------------------------------------------------
API cudaError_t cudaGetDeviceCount(int* n) {
  bool old = getenv("NULL_GPU_OLD_DRIVER") != nullptr;
  *n = old ? 0 : num_devices();
  return old ? cudaErrorInsufficientDriver : *n ? cudaSuccess : cudaErrorNoDevice;
}
API cudaError_t cudaGetDevice(int* device) { *device = current; return cudaSuccess; }
// Others have taken all memory, so that there is none for this process's context.
bool is_full() { return getenv("NULL_GPU_FULL") != nullptr; }
API cudaError_t cudaSetDevice(int device) {
  if (is_full()) return cudaErrorMemoryAllocation;
  if (device < 0 || device >= num_devices()) return cudaErrorInvalidDevice;
  current = device;
  return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "NVIDIA H100 80GB HBM3");
  p->totalGlobalMem = TOTAL;
  p->sharedMemPerBlock = 49152;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536;
  p->major = int(setting("NULL_GPU_MAJOR", 9));
  p->minor = int(setting("NULL_GPU_MINOR", 0));
  p->textureAlignment = 512;
  p->multiProcessorCount = 132;
  p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerMultiprocessor = 233472;
  p->sharedMemPerBlockOptin = 232448;
  p->l2CacheSize = 52428800;
  p->unifiedAddressing = p->concurrentKernels = p->canMapHostMemory = 1;
  p->memoryBusWidth = 5120;
  p->maxBlocksPerMultiProcessor = 32;
  p->asyncEngineCount = 3;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (int(attribute)) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY:
      *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    default: *value = 1;
  }
  return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 1; return cudaSuccess; }
API cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  snprintf(text, size, "0000:%02x:00.0", device);
  return cudaSuccess;
}
API const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInsufficientDriver
             ? "CUDA driver version is insufficient for CUDA runtime version"
             : error == cudaErrorMemoryAllocation ? "out of memory" : "error of the null GPU";
}
API const char* cudaGetErrorName(cudaError_t) { return "nullGPU"; }
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                 unsigned long long,
                                                 cudaDriverEntryPointQueryResult* result) {
  if (result) *result = cudaDriverEntryPointSuccess;
  *function = reinterpret_cast<void*>(nothing);
  if (strstr(name, "PrimaryCtxGetState")) *function = reinterpret_cast<void*>(primary_context_state);
  if (strstr(name, "CtxGetCurrent")) *function = reinterpret_cast<void*>(current_context);
  return cudaSuccess;
}

// --- memory ----------------------------------------------------------------------------------------
API cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (used + size > size_t(setting("NULL_GPU_MEMORY", long(TOTAL)))) return cudaErrorMemoryAllocation;
  *pointer = allocate(size, DEVICE);
  return cudaSuccess;
}
API cudaError_t cudaFree(void* pointer) { release(pointer); return cudaSuccess; }
API cudaError_t cudaMallocHost(void** pointer, size_t size) {
  *pointer = allocate(size, PINNED);
  return cudaSuccess;
}
API cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned) {
  return cudaMallocHost(pointer, size);
}
API cudaError_t cudaFreeHost(void* pointer) { release(pointer); return cudaSuccess; }
API cudaError_t cudaHostGetDevicePointer(void** on_device, void* pointer, unsigned) {
  *on_device = pointer;
  return cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  if (is_full()) return cudaErrorMemoryAllocation;
  *total = size_t(setting("NULL_GPU_MEMORY", long(TOTAL)));
  *free_bytes = *total - used;
  return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  memset(attributes, 0, sizeof *attributes);
  Block block = block_of(pointer);
  attributes->type = block.kind == DEVICE   ? cudaMemoryTypeDevice
                     : block.kind == PINNED ? cudaMemoryTypeHost
                                            : cudaMemoryTypeUnregistered;
  attributes->device = block.device;
  attributes->devicePointer = block.kind ? const_cast<void*>(pointer) : nullptr;
  attributes->hostPointer = block.kind == PINNED ? const_cast<void*>(pointer) : nullptr;
  return cudaSuccess;
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  ++counts[SYNCHRONIZATIONS];
  copy(to, from, size);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t) {
  copy(to, from, size);
  return cudaSuccess;
}
API cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t) {
  copy(to, from, size);
  return cudaSuccess;
}
API cudaError_t cudaMemset(void* to, int value, size_t size) { memset(to, value, size); return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t) {
  return cudaMemset(to, value, size);
}
API cudaError_t cudaGetSymbolAddress(void** pointer, const void*) {
  static char* zeros = allocate(1 << 20, DEVICE);
  *pointer = zeros;
  return cudaSuccess;
}

// --- streams, events, launches ---------------------------------------------------------------------
template <class Handle>
static cudaError_t make(Handle* handle) {
  *handle = reinterpret_cast<Handle>(next_handle++);
  return cudaSuccess;
}
API cudaError_t cudaStreamCreate(cudaStream_t* s) { return make(s); }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return make(s); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { return make(s); }
API cudaError_t cudaEventCreate(cudaEvent_t* e) { return make(e); }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return make(e); }
API cudaError_t cudaStreamSynchronize(cudaStream_t) { ++counts[SYNCHRONIZATIONS]; return cudaSuccess; }
API cudaError_t cudaDeviceSynchronize() { ++counts[SYNCHRONIZATIONS]; return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { ++counts[SYNCHRONIZATIONS]; return cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { *ms = 1; return cudaSuccess; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  attributes->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) {
  *n = 2;
  return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int,
                                                                       size_t, unsigned) {
  *n = 2;
  return cudaSuccess;
}
static void* fat_binary[4];
API void** __cudaRegisterFatBinary(void*) { return fat_binary; }
struct Configuration { dim3 grid, block; size_t shared; void* stream; };
static thread_local Configuration configuration;
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}
API int __cudaGetKernel(void** kernel, const void* function) {
  *kernel = const_cast<void*>(function);
  return 0;
}
static cudaError_t launched() { ++counts[LAUNCHES]; return cudaSuccess; }
API cudaError_t __cudaLaunchKernel(void*, dim3, dim3, void**, size_t, cudaStream_t) { return launched(); }
API cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) { return launched(); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) { return launched(); }
API cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) {
  return launched();
}

// --- cuBLAS, cuDNN, NCCL of one process ------------------------------------------------------------
#define CREATES(name) API int name(void** handle) { *handle = reinterpret_cast<void*>(next_handle++); return 0; }
CREATES(cublasCreate_v2) CREATES(cublasLtCreate) CREATES(cusolverDnCreate) CREATES(cusparseCreate)
CREATES(cudnnCreate)
API int cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
API int cublasGetPointerMode_v2(void*, int* mode) { *mode = 0; return 0; }
API size_t cudnnGetVersion() { return 92600; }
API size_t cudnnGetCudartVersion() { return CUDART_VERSION; }
API int cudnnGetProperty(int kind, int* value) {  // major, minor, patch
  *value = kind == 0 ? 9 : kind == 1 ? 26 : 0;
  return 0;
}
API const char* cudnnGetErrorString(int) { return "null cuDNN"; }

struct UniqueId { char bytes[128]; };
struct Communicator { int size, rank; };
API int ncclGetUniqueId(void* id) { memset(id, 7, sizeof(UniqueId)); return 0; }
API int ncclCommInitRank(void** c, int size, UniqueId, int rank) { *c = new Communicator{size, rank}; return 0; }
API int ncclCommInitRankConfig(void** c, int size, UniqueId, int rank, void*) {
  *c = new Communicator{size, rank};
  return 0;
}
API int ncclCommInitRankScalable(void** c, int size, int rank, int, void*, void*) {
  *c = new Communicator{size, rank};
  return 0;
}
API int ncclCommSplit(void* c, int, int, void** made, void*) {
  *made = new Communicator(*static_cast<Communicator*>(c));
  return 0;
}
API int ncclCommGetAsyncError(void*, int* error) { *error = 0; return 0; }
API int ncclCommCount(void* c, int* n) { *n = static_cast<Communicator*>(c)->size; return 0; }
API int ncclCommUserRank(void* c, int* n) { *n = static_cast<Communicator*>(c)->rank; return 0; }
API int ncclGetVersion(int* version) { *version = 23007; return 0; }
API const char* ncclGetErrorString(int) { return "null NCCL"; }
API const char* ncclGetLastError(void*) { return "null NCCL"; }
static int pass_on(const void* from, void* to, size_t n, int type) {
  static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  if (from != to) memmove(to, from, n * (type < 12 ? sizes[type] : 4));
  return 0;
}
API int ncclAllGather(const void* s, void* r, size_t n, int t, void*, void*) { return pass_on(s, r, n, t); }
API int ncclAllReduce(const void* s, void* r, size_t n, int t, int, void*, void*) { return pass_on(s, r, n, t); }
API int ncclBroadcast(const void* s, void* r, size_t n, int t, int, void*, void*) { return pass_on(s, r, n, t); }
API int ncclReduceScatter(const void* s, void* r, size_t n, int t, int, void*, void*) {
  return pass_on(s, r, n, t);
}
API int ncclReduce(const void* s, void* r, size_t n, int t, int, int, void*, void*) { return pass_on(s, r, n, t); }
