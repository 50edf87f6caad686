#pragma once

// What the CUDA kernels share: checked launches, vector loads of the three storage types,
// reductions.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include "core/types.h"
#include "cuda/launch.cuh"

namespace outdim::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// Throws std::bad_alloc where the device's memory is full, so that callers can tell.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call is not to find it
  if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// Makes a device current for the calling thread and restores the one before it. One that is
/// current already is left alone: setting it may create its context.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (previous_ != device_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_;
  int previous_ = 0;
};

/// Lets a kernel have this much dynamic shared memory on the current device: above 48 KiB, static
/// memory included, it has to ask. What it may have is never lowered: another thread of the host may
/// be about to launch it with more.
template <auto kKernel>
void allow_shared(size_t bytes) {
  if (bytes == 0) return;
  static std::mutex mutex;
  static std::map<int, size_t> allowed;  // by device
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  if (bytes <= allowed[device]) return;
  check(cudaFuncSetAttribute(handle<kKernel>(), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  allowed[device] = bytes;
}

/// Launches on the current device; a grid without blocks is no work.
template <auto kKernel, class... Args>
void launch(dim3 grid, dim3 block, size_t shared_bytes, void* stream, const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  allow_shared<kKernel>(shared_bytes);
  start<kKernel>(grid, block, shared_bytes, stream, args...);
  check(cudaGetLastError(), "kernel launch");
}

/// Blocks that run on an SM at a time, at least 1.
template <auto kKernel>
int resident_blocks(int threads, size_t shared_bytes) {
  allow_shared<kKernel>(shared_bytes);
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, handle<kKernel>(), threads,
                                                      shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks > 1 ? blocks : 1;
}

inline int device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

/// Calls `use(T{})` with the type of a DType and returns what it returns.
template <class Use>
auto with_dtype(DType dtype, Use&& use) {
  switch (dtype) {
    case DType::kFloat32:
      return use(float{});
    case DType::kFloat16:
      return use(__half{});
    case DType::kBFloat16:
      return use(__nv_bfloat16{});
  }
  throw std::invalid_argument("dtype: expected 0, 1 or 2");
}

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// V consecutive values of T as the 32-bit words they travel in.
template <class T, int V>
struct Packet {
  static constexpr int kWords = V * static_cast<int>(sizeof(T)) / 4;
  static_assert(kWords == 1 || kWords == 2 || kWords == 4, "4, 8 or 16 bytes");
  uint32_t word[kWords];
};

template <class T, int V>
__device__ __forceinline__ Packet<T, V> zero_packet() {
  Packet<T, V> packet;
#pragma unroll
  for (int w = 0; w < Packet<T, V>::kWords; ++w) packet.word[w] = 0;
  return packet;
}

/// Whether a load is the last use of its data: those leave the cache first.
enum class Use { kAgain, kLast };

/// One load; `p` is aligned to the packet.
template <class T, int V, Use U = Use::kLast>
__device__ __forceinline__ Packet<T, V> load_aligned(const T* p) {
  const auto load = [](const auto* words) { return U == Use::kLast ? __ldcs(words) : *words; };
  Packet<T, V> packet;
  if constexpr (Packet<T, V>::kWords == 1) {
    packet.word[0] = load(reinterpret_cast<const unsigned*>(p));
  } else if constexpr (Packet<T, V>::kWords == 2) {
    const uint2 value = load(reinterpret_cast<const uint2*>(p));
    packet.word[0] = value.x;
    packet.word[1] = value.y;
  } else {
    const uint4 value = load(reinterpret_cast<const uint4*>(p));
    packet.word[0] = value.x;
    packet.word[1] = value.y;
    packet.word[2] = value.z;
    packet.word[3] = value.w;
  }
  return packet;
}

/// Loads the first `valid` values one by one, at any address; the others are zero.
template <class T, int V>
__device__ __forceinline__ Packet<T, V> load_guarded(const T* p, int valid) {
  Packet<T, V> packet = zero_packet<T, V>();
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (i < valid) {
      if constexpr (sizeof(T) == 4) {
        packet.word[i] = reinterpret_cast<const uint32_t*>(p)[i];
      } else {
        packet.word[i / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(p)[i])
                              << (16 * (i % 2));
      }
    }
  }
  return packet;
}

/// One 16-byte store; `p` is aligned to it.
template <class T, int V>
__device__ __forceinline__ void store_aligned(T* p, const Packet<T, V>& packet) {
  static_assert(Packet<T, V>::kWords == 4, "16 bytes");
  *reinterpret_cast<uint4*>(p) =
      make_uint4(packet.word[0], packet.word[1], packet.word[2], packet.word[3]);
}

/// Stores the first `valid` values one by one, at any address.
template <class T, int V>
__device__ __forceinline__ void store_guarded(T* p, const Packet<T, V>& packet, int valid) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (i < valid) {
      if constexpr (sizeof(T) == 4) {
        reinterpret_cast<uint32_t*>(p)[i] = packet.word[i];
      } else {
        reinterpret_cast<uint16_t*>(p)[i] =
            static_cast<uint16_t>(packet.word[i / 2] >> (16 * (i % 2)));
      }
    }
  }
}

__device__ __forceinline__ float2 unpack_word(uint32_t word, __nv_bfloat16) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
__device__ __forceinline__ float2 unpack_word(uint32_t word, __half) {
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
__device__ __forceinline__ uint32_t pack_word(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t pack_word(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <class T, int V>
__device__ __forceinline__ void unpack(const Packet<T, V>& packet, float* out) {
#pragma unroll
  for (int w = 0; w < Packet<T, V>::kWords; ++w) {
    if constexpr (sizeof(T) == 4) {
      out[w] = __uint_as_float(packet.word[w]);
    } else {
      const float2 pair = unpack_word(packet.word[w], T{});
      out[2 * w] = pair.x;
      out[2 * w + 1] = pair.y;
    }
  }
}

/// Rounds to the nearest T.
template <class T, int V>
__device__ __forceinline__ Packet<T, V> pack(const float* in) {
  Packet<T, V> packet;
#pragma unroll
  for (int w = 0; w < Packet<T, V>::kWords; ++w) {
    if constexpr (sizeof(T) == 4) {
      packet.word[w] = __float_as_uint(in[w]);
    } else {
      packet.word[w] = pack_word(in[2 * w], in[2 * w + 1], T{});
    }
  }
  return packet;
}

/// Whether rows that start at `p`, `stride` elements apart, can be read in packets of `bytes`.
inline bool rows_aligned(const void* p, int64_t stride, int64_t item_bytes, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0 && stride * item_bytes % bytes == 0;
}

/// Sum over the lanes of a warp, the same bits in every lane.
template <class A>
__device__ __forceinline__ A warp_sum(A value) {
#pragma unroll
  for (int offset = kWarp / 2; offset >= 1; offset /= 2)
    value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

/// Sums of R values over the lanes of a warp: lane l gets that of value l / (32 / R). R - 1 +
/// log2(32 / R) shuffles instead of 5 R.
template <int R, class A>
__device__ __forceinline__ A warp_sums(A (&value)[R], int lane) {
  static_assert((R & (R - 1)) == 0 && R <= kWarp, "a power of two");
  int offset = kWarp / 2;
#pragma unroll
  for (int half = R / 2; half >= 1; half /= 2, offset /= 2) {
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A keep = upper ? value[i + half] : value[i];
      const A send = upper ? value[i] : value[i + half];
      value[i] = keep + __shfl_xor_sync(kAllLanes, send, offset);
    }
  }
  A sum = value[0];
#pragma unroll
  for (; offset >= 1; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  return sum;
}

}  // namespace outdim::cuda
