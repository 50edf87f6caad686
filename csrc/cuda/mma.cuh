#pragma once

// Tensor cores and asynchronous copies, instruction by instruction (sm_80 and newer). Like
// launch.cuh, tests/emulator has its own of these, which follows the same layouts.
//
// A warp holds a 16 x 16 matrix A, a 16 x 8 matrix B and a 16 x 8 matrix C in fragments (PTX ISA,
// "Matrix Fragments for mma.m16n8k16"). Lane l, g = l / 4, t = l % 4, two values of 16 bits a word,
// the lower column (row of B) in the lower half:
//
//   A   word 0: row g, columns 2t, 2t + 1     B   word 0: rows 2t, 2t + 1, column g
//       word 1: row g + 8, the same               word 1: rows 2t + 8, 2t + 9, column g
//       word 2: row g, columns 2t + 8, 2t + 9
//       word 3: row g + 8, the same           C   0, 1: row g, columns 2t, 2t + 1; 2, 3: row g + 8
//
// Products of two values of 16 bits are exact in float32; their sums are float32, but cut off, not
// rounded.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace outdim::cuda {

/// C += A B; all lanes of the warp take part.
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/// Four 8 x 8 matrices of 16-bit values: lane 8 m + r gives the address, in shared memory and
/// aligned to 16 bytes, of row r of matrix m; every lane gets, in word m, columns 2 (l % 4) and
/// 2 (l % 4) + 1 of row l / 4 of matrix m.
__device__ __forceinline__ void load_matrices(uint32_t (&word)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Starts to copy 16 bytes, aligned to that, into shared memory: zeros unless `there`, and then
/// nothing is read.
__device__ __forceinline__ void start_copy(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(there ? 16 : 0)
               : "memory");
}
/// Waits for the copies that this thread has started; others see them after a barrier.
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// 2^x to 2 units in the last place; below 2^-126 it is 0.
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace outdim::cuda
