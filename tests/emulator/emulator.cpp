// Runs CUDA device code on the CPU: a fiber per thread of a block, blocks one after the other. A
// fiber runs until it waits at a barrier or a shuffle, and the fibers take turns in an order that
// can be chosen, so that a missing barrier shows as a result that depends on the order. Stops the
// process at what a GPU would hang on or leave undefined: diverged shuffles, barriers that some
// threads never reach. Shared memory starts as NaN. Launches that a device would refuse, for their
// registers or shared memory, fail as they do there; the registers and the static shared memory of
// a kernel are what ptxas says (emulator_limits, from benchmarks/ptxas.py).
//
// Not modelled: the interleaving of single memory accesses, the memory model, the compiler for the
// device.

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"

namespace emulator {

uint3 thread, block;
dim3 block_size, grid_size;
unsigned char* dynamic_shared = nullptr;

namespace {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr size_t kDefaultShared = 48 * 1024;
constexpr size_t kSharedOfSm = 228 * 1024;
constexpr size_t kReservedShared = 1024;  // of each block
constexpr int kRegisters = 65536;
constexpr int kThreadsOfSm = 2048;
constexpr size_t kStackBytes = 96 * 1024;

int multiprocessors = 3;
size_t max_shared = 227 * 1024;  // of a block, static and dynamic, where it asked
int order =
    0;  // 0: ascending, 1: descending, otherwise the seed of a new random order for each turn

/// What ptxas says of a kernel.
struct Limits {
  int registers = 0;
  size_t shared = 0;
};
std::map<std::string, Limits> limits;  // by name and template arguments
cudaError_t last_error = cudaSuccess;
cudaError_t next_launch = cudaSuccess;  // what it is to fail with
int device = 0;                         // the current one of the thread, of which there is one here
int switches = 0;                       // of the device, since the test has set it
unsigned ran_on = 0;                    // bits of the devices on which kernels ran since then

/// The name and the template arguments out of "... [with auto kKernel = a::{anonymous}::name<...>]".
std::string short_name(const char* pretty) {
  std::string name = pretty;
  name = name.substr(name.find(" = ") + 3);
  name.pop_back();
  for (const char* scope : {"outdim::cuda::", "{anonymous}::", "Norms::k"})
    for (size_t at; (at = name.find(scope)) != std::string::npos;)
      name.erase(at, std::strlen(scope));
  return name;
}

/// Nothing where ptxas was not asked; a kernel that it does not know by this name ends the program.
Limits limits_of(const Kernel& kernel) {
  if (limits.empty()) return {};
  const auto found = limits.find(short_name(kernel.name));
  if (found != limits.end()) return found->second;
  std::fprintf(stderr, "no limits of kernel %s\n", short_name(kernel.name).c_str());
  std::abort();
}

/// Registers of a block: by warp, in units of 256.
int registers_of(const Limits& limit, int threads) {
  const int of_warp = (limit.registers * 32 + 255) / 256 * 256;
  return of_warp * ((threads + 31) / 32);
}

cudaError_t refusal(const Kernel& kernel, int threads, size_t shared_bytes) {
  const Limits limit = limits_of(kernel);
  const size_t shared = limit.shared + shared_bytes;
  if (shared > max_shared) return cudaErrorInvalidValue;
  if (shared > kDefaultShared && shared_bytes > kernel.allowed) return cudaErrorInvalidValue;
  if (registers_of(limit, threads) > kRegisters) return cudaErrorLaunchOutOfResources;
  return cudaSuccess;
}

struct Copy {
  void* to;
  const void* from;
  bool there;
};
struct Fiber {
  ucontext_t context;
  uint3 thread;
  std::vector<Copy> copies;  // started, and not waited for
  bool blocked = false;
  bool done = false;
};
struct Barrier {
  int expected = 0;
  std::vector<int> waiting;
};
struct Warp {
  uint64_t value[2]
                [kWarp];  // by parity of the call: a fast lane may be one call ahead of a slow one
  int operation[2][kWarp];
  int calls[kWarp] = {};
  std::vector<int> waiting;
};

std::vector<Fiber> fibers;
std::vector<std::unique_ptr<char[]>> stacks;
std::map<int, Barrier> barriers;
std::vector<Warp> warps;
ucontext_t scheduler;
int current = 0;
const std::function<void()>* kernel = nullptr;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "emulator: block (%u, %u, %u), thread %d: %s\n", block.x, block.y, block.z,
               current, what);
  std::abort();
}

void wait() {
  fibers[current].blocked = true;
  swapcontext(&fibers[current].context, &scheduler);
}

void wake(std::vector<int>& waiting) {
  for (int f : waiting) fibers[f].blocked = false;
  waiting.clear();
}

/// Leaves a value for the warp and waits until all lanes have; returns where they are. The last one
/// to come calls `last` with that before the others go on.
template <class Last>
int meet(uint64_t value, int operation, const Last& last) {
  Warp& warp = warps[current / kWarp];
  const int mine = current % kWarp;
  const int parity = warp.calls[mine]++ % 2;
  warp.value[parity][mine] = value;
  warp.operation[parity][mine] = operation;
  warp.waiting.push_back(current);
  if (warp.waiting.size() < kWarp) {
    wait();
  } else {
    for (int other : warp.operation[parity]) {
      if (other != operation) stop("lanes meet at different operations");
    }
    last(warp.value[parity]);
    wake(warp.waiting);
  }
  return parity;
}

int meet(uint64_t value, int operation) {
  return meet(value, operation, [](const uint64_t*) {});
}

void enter() {
  (*kernel)();
  if (!fibers[current].copies.empty()) stop("ends before its copies");
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

void start_fibers(int count) {
  fibers.assign(count, Fiber{});
  warps.assign((count + kWarp - 1) / kWarp, Warp{});
  barriers.clear();
  while (static_cast<int>(stacks.size()) < count) stacks.emplace_back(new char[kStackBytes]);
  for (int f = 0; f < count; ++f) {
    Fiber& fiber = fibers[f];
    fiber.thread = {f % block_size.x, f / block_size.x % block_size.y,
                    f / (block_size.x * block_size.y)};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks[f].get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
}

void run_block(int count, std::mt19937& random) {
  start_fibers(count);
  std::vector<int> turn(count);
  std::iota(turn.begin(), turn.end(), 0);
  if (order == 1) std::reverse(turn.begin(), turn.end());
  for (int left = count; left > 0;) {
    if (order > 1) std::shuffle(turn.begin(), turn.end(), random);
    bool progress = false;
    for (int f : turn) {
      if (fibers[f].done || fibers[f].blocked) continue;
      progress = true;
      current = f;
      thread = fibers[f].thread;
      swapcontext(&scheduler, &fibers[f].context);
      if (fibers[f].done) --left;
    }
    if (!progress) stop("every thread left waits for one that is done or waits elsewhere");
  }
}

}  // namespace

int lane() { return current % kWarp; }

void barrier(int id, int threads) {
  const int expected = threads < 0 ? static_cast<int>(fibers.size()) : threads;
  if (expected % kWarp) stop("a barrier of a part of a warp");
  Barrier& at = barriers[id];
  if (at.waiting.empty()) at.expected = expected;
  if (at.expected != expected) stop("a barrier with different numbers of threads");
  at.waiting.push_back(current);
  if (static_cast<int>(at.waiting.size()) < expected) {
    wait();
  } else {
    wake(at.waiting);
  }
}

uint64_t exchange(uint64_t value, int source, int operation) {
  const int parity = meet(value, operation);
  return warps[current / kWarp].value[parity][source % kWarp];
}

unsigned ballot(bool predicate) {
  const int parity = meet(predicate, 3);
  unsigned mask = 0;
  for (int l = 0; l < kWarp; ++l) {
    mask |= static_cast<unsigned>(warps[current / kWarp].value[parity][l]) << l;
  }
  return mask;
}

void together(void* mine, int operation, void (*work)(void* const* of_lane)) {
  meet(reinterpret_cast<uint64_t>(mine), operation, [&](const uint64_t* values) {
    void* of_lane[kWarp];
    for (int l = 0; l < kWarp; ++l) of_lane[l] = reinterpret_cast<void*>(values[l]);
    work(of_lane);
  });
}

void start_copy(void* shared, const void* global, bool there) {
  if (reinterpret_cast<uintptr_t>(shared) % 16) stop("a copy to an address that is not aligned");
  if (there && reinterpret_cast<uintptr_t>(global) % 16) stop("a copy from an address like that");
  std::memset(shared, 0xff, 16);
  fibers[current].copies.push_back({shared, global, there});
}

void wait_for_copies() {
  for (const Copy& copy : fibers[current].copies) {
    if (copy.there)
      std::memcpy(copy.to, copy.from, 16);
    else
      std::memset(copy.to, 0, 16);
  }
  fibers[current].copies.clear();
}

void run(const Kernel& launched, dim3 grid, dim3 threads, size_t shared_bytes,
         const std::function<void()>& body) {
  const int count = threads.x * threads.y * threads.z;
  if (count < 1 || count > kMaxThreads) stop("too many threads in a block");
  last_error = std::exchange(next_launch, cudaSuccess);
  if (last_error == cudaSuccess) last_error = refusal(launched, count, shared_bytes);
  if (last_error != cudaSuccess) return;
  ran_on |= 1u << device;
  kernel = &body;
  grid_size = grid;
  block_size = threads;
  std::mt19937 random(order);
  // Its exact size, for the address sanitizer.
  const auto shared = std::unique_ptr<unsigned char[]>(new unsigned char[shared_bytes]);
  dynamic_shared = shared.get();
  for (block.z = 0; block.z < grid.z; ++block.z) {
    for (block.y = 0; block.y < grid.y; ++block.y) {
      for (block.x = 0; block.x < grid.x; ++block.x) {
        std::fill_n(dynamic_shared, shared_bytes, 0xff);
        run_block(count, random);
      }
    }
  }
}

}  // namespace emulator

// The part of the CUDA runtime that the host code calls.
extern "C" {
__attribute__((visibility("default"))) void emulator_configure(int multiprocessors, int order) {
  emulator::multiprocessors = multiprocessors;
  emulator::order = order;
}
__attribute__((visibility("default"))) void emulator_give_shared(int bytes) {
  emulator::max_shared = static_cast<size_t>(bytes);
}
__attribute__((visibility("default"))) void emulator_limits(const char* kernel, int registers,
                                                            int shared_bytes) {
  emulator::limits[kernel] = {registers, static_cast<size_t>(shared_bytes)};
}
__attribute__((visibility("default"))) void emulator_fail_next_launch(int error) {
  emulator::next_launch = static_cast<cudaError_t>(error);
}
__attribute__((visibility("default"))) void emulator_use_device(int device) {
  emulator::device = device;
  emulator::switches = 0;
  emulator::ran_on = 0;
}
__attribute__((visibility("default"))) int emulator_device() { return emulator::device; }
__attribute__((visibility("default"))) int emulator_switches() { return emulator::switches; }
__attribute__((visibility("default"))) unsigned emulator_ran_on() { return emulator::ran_on; }
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  auto* known = static_cast<emulator::Kernel*>(const_cast<void*>(kernel));
  if (emulator::limits_of(*known).shared + bytes > emulator::max_shared)
    return cudaErrorInvalidValue;
  known->allowed = bytes;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel,
                                                          int threads, size_t shared_bytes) {
  const auto limit = emulator::limits_of(*static_cast<const emulator::Kernel*>(kernel));
  const size_t shared = limit.shared + shared_bytes + emulator::kReservedShared;
  *blocks =
      std::min(emulator::kThreadsOfSm / threads, static_cast<int>(emulator::kSharedOfSm / shared));
  if (limit.registers > 0)
    *blocks = std::min(*blocks, emulator::kRegisters / emulator::registers_of(limit, threads));
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) { return *device = emulator::device, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  emulator::device = device;
  ++emulator::switches;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::multiprocessors
                                                       : static_cast<int>(emulator::max_shared);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t) { return "emulated"; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
}
