// What there is to run on.

#include <cuda_runtime.h>

#include "cuda/kernels.h"

namespace outdim::cuda {

DeviceInfo info() {
  DeviceInfo result;
  cudaRuntimeGetVersion(&result.runtime_version);
  cudaDriverGetVersion(&result.driver_version);
  const cudaError_t error = cudaGetDeviceCount(&result.devices);
  if (error != cudaSuccess) {
    result.devices = 0;
    result.error = cudaGetErrorString(error);
    cudaGetLastError();  // the next launch is not to find it
  }
  return result;
}

}  // namespace outdim::cuda
