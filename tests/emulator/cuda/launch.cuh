#pragma once

// Takes the place of csrc/cuda/launch.cuh: CUDA C++ as plain C++, its threads run by emulator.cpp.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#undef __shared__
#define __shared__ static  // blocks run one after the other
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __global__
#define __global__
#undef __device__
#define __device__
#undef __host__
#define __host__
#undef __forceinline__
#define __forceinline__ inline

namespace emulator {

extern uint3 thread, block;
extern dim3 block_size, grid_size;
extern unsigned char* dynamic_shared;

/// A kernel as the runtime knows it: its name as the compiler writes it, the dynamic shared memory
/// that it was allowed.
struct Kernel {
  const char* name;
  size_t allowed = 0;
};

/// Runs `body` for every thread of every block, unless a device would refuse the launch: then the
/// error is what cudaGetLastError returns next.
void run(const Kernel& kernel, dim3 grid, dim3 threads, size_t shared_bytes,
         const std::function<void()>& body);
/// Waits for `threads` threads, for all of the block where negative.
void barrier(int id, int threads);
/// What lane `source` of the warp has given in the same call; all 32 lanes must come.
uint64_t exchange(uint64_t value, int source, int operation);
unsigned ballot(bool predicate);
int lane();

template <class T>
T shuffle(T value, int source, int operation) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(bits, source, operation);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float inverse_root(float x) { return 1.0f / std::sqrt(x); }

}  // namespace emulator

#define threadIdx emulator::thread
#define blockIdx emulator::block
#define blockDim emulator::block_size
#define gridDim emulator::grid_size
#define __syncthreads() emulator::barrier(0, -1)
#define __shfl_xor_sync(mask, value, offset) \
  emulator::shuffle(value, emulator::lane() ^ (offset), 1)
#define __shfl_sync(mask, value, source) emulator::shuffle(value, source, 2)
#define __ballot_sync(mask, predicate) emulator::ballot(predicate)
#define rsqrtf emulator::inverse_root

using std::isfinite;
using std::max;
using std::min;

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
template <class T>
T __ldcs(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) __builtin_trap();  // a GPU faults as well
  return *p;
}
template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address += value;
  return old;
}

namespace outdim::cuda {

template <auto kKernel>
emulator::Kernel& record() {
  static emulator::Kernel kernel{__PRETTY_FUNCTION__};
  return kernel;
}

template <auto kKernel>
const void* handle() {
  return &record<kKernel>();
}

template <auto kKernel, class... Args>
void start(dim3 grid, dim3 threads, size_t shared_bytes, void*, const Args&... args) {
  emulator::run(record<kKernel>(), grid, threads, shared_bytes, [&] { kKernel(args...); });
}

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::dynamic_shared);
}

template <int kId>
void named_barrier(int threads) {
  emulator::barrier(kId, threads);
}

}  // namespace outdim::cuda
