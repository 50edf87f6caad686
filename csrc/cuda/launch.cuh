#pragma once

// What ties the device code to the machine that runs its threads: with mma.cuh the only parts that
// tests/emulator replaces to run the kernels on the CPU.

#include <cuda_runtime.h>

namespace outdim::cuda {

/// Queues kKernel on the current device.
template <auto kKernel, class... Args>
void start(dim3 grid, dim3 block, size_t shared_bytes, void* stream, const Args&... args) {
  kKernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
}

/// What the runtime's functions know a kernel by.
template <auto kKernel>
const void* handle() {
  return reinterpret_cast<const void*>(kKernel);
}

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char outdim_dynamic_shared[];
  return reinterpret_cast<T*>(outdim_dynamic_shared);
}

/// Barrier kId of the `threads` threads that name it; 1 <= kId <= 15, 0 is that of __syncthreads.
template <int kId>
__device__ __forceinline__ void named_barrier(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(kId), "r"(threads) : "memory");
}

}  // namespace outdim::cuda
