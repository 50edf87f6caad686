// One product of a warp by the instructions of cuda/mma.cuh, for a test of them alone: the
// fragments are loaded by the words of its table, or by ldmatrix after asynchronous copies.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/launch.cuh"
#include "cuda/mma.cuh"

namespace outdim::cuda {
namespace {

enum class Load : int {
  kWords,          // by the table
  kMatrices,       // by ldmatrix
  kQuartersOfA,    // by the table, two quarters of A exchanged: wrong
  kHalvesOfB,      // ... the halves of B: wrong
  kBeforeTheCopy,  // by ldmatrix before the copies were waited for: NaN
};

constexpr int kDepth = 16;  // columns of A, rows of B

uint32_t pair(const uint16_t* values) { return values[0] | uint32_t{values[1]} << 16; }

/// a: [16, 16], b: [8, 16], the columns of B; c: [16, 8], added to.
template <class T>
void multiply_once(const uint16_t* a, const uint16_t* b, float* c, Load load) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  uint32_t of_a[4], of_b[4];
  if (load == Load::kMatrices || load == Load::kBeforeTheCopy) {
    uint16_t* const rows = dynamic_shared<uint16_t>();  // 16 of A, 8 of B, 8 of zeros
    for (int r = 0; r < 2; ++r) {
      start_copy(rows + lane * kDepth + r * 8,
                 lane < 16 ? a + lane * kDepth + r * 8 : b + (lane - 16) % 8 * kDepth + r * 8,
                 lane < 24);
    }
    if (load == Load::kMatrices) wait_for_copies();
    __syncthreads();
    load_matrices(of_a, rows + lane % 16 * kDepth + lane / 16 * 8);
    load_matrices(of_b, rows + (16 + lane % 8 + lane / 16 * 8) * kDepth + lane / 8 % 2 * 8);
    wait_for_copies();
  } else {
    for (int w = 0; w < 4; ++w) of_a[w] = pair(a + (g + w % 2 * 8) * kDepth + 2 * t + w / 2 * 8);
    for (int w = 0; w < 2; ++w) of_b[w] = pair(b + g * kDepth + 2 * t + w * 8);
    if (load == Load::kQuartersOfA) std::swap(of_a[1], of_a[2]);
    if (load == Load::kHalvesOfB) std::swap(of_b[0], of_b[1]);
  }
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  multiply_add(sum, of_a, of_b[0], of_b[1], T{});
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

}  // namespace
}  // namespace outdim::cuda

extern "C" __attribute__((visibility("default"))) void emulator_multiply(const uint16_t* a,
                                                                         const uint16_t* b,
                                                                         float* c, int bfloat16,
                                                                         int load) {
  using namespace outdim::cuda;
  constexpr size_t kShared = 32 * kDepth * sizeof(uint16_t);
  const auto how = static_cast<Load>(load);
  if (bfloat16)
    start<&multiply_once<__nv_bfloat16>>(dim3(1), dim3(32), kShared, nullptr, a, b, c, how);
  else
    start<&multiply_once<__half>>(dim3(1), dim3(32), kShared, nullptr, a, b, c, how);
}
