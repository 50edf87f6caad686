#pragma once

// What ties the device code to the machine that runs its threads: the only parts that
// tests/emulator replaces to run the kernels on the CPU.

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace outdim::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// Launches on the current device; a grid without blocks is no work.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
            Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 * 1024) {  // above this a kernel has to ask
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(Params(args)...);
  check(cudaGetLastError(), "kernel launch");
}

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char outdim_dynamic_shared[];
  return reinterpret_cast<T*>(outdim_dynamic_shared);
}

/// Barrier of the `threads` threads that name it; 1 <= id <= 15, 0 is that of __syncthreads.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace outdim::cuda
