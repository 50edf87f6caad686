#pragma once

// Takes the place of csrc/cuda/mma.cuh, whose comments say what each of these is: the last lane of
// a warp that comes does the work of all. Written from the tables of the PTX ISA by element, not by
// word, so that it does not repeat the arithmetic of the kernels.

#include "cuda/launch.cuh"

namespace emulator {

/// Waits until all lanes of the warp have come, with the same operation; the last one calls
/// `work` with what each of them brought.
void together(void* mine, int operation, void (*work)(void* const* of_lane));

/// cp.async of 16 bytes: the goal is spoilt at once and written when this thread waits.
void start_copy(void* shared, const void* global, bool there);
void wait_for_copies();

/// The operands of one lane.
struct Fragments {
  const uint32_t* a;
  uint32_t b[2];
  float* c;
};

/// The sum of products as tensor cores have it: exact products, cut off to float32.
inline float cut_off(double sum) {
  const float rounded = static_cast<float>(sum);
  if (std::isfinite(rounded) && std::abs(static_cast<double>(rounded)) > std::abs(sum))
    return std::nextafter(rounded, 0.0f);
  return rounded;
}

template <class T>
double half_of(uint32_t word, int upper) {
  const uint16_t bits = static_cast<uint16_t>(word >> (16 * upper));
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof value);
  return static_cast<double>(static_cast<float>(value));
}

template <class T>
void multiply_warp(void* const* of_lane) {
  double a[16][16], b[16][8];
  Fragments* lanes[32];
  for (int l = 0; l < 32; ++l) {
    lanes[l] = static_cast<Fragments*>(of_lane[l]);
    const int group = l >> 2, in_group = l % 4;
    for (int i = 0; i < 8; ++i) {  // of a lane's elements of A
      const int row = i == 0 || i == 1 || i == 4 || i == 5 ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
      a[row][column] = half_of<T>(lanes[l]->a[i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) {
      const int row = in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);
      b[row][group] = half_of<T>(lanes[l]->b[i / 2], i % 2);
    }
  }
  for (int l = 0; l < 32; ++l) {
    for (int i = 0; i < 4; ++i) {
      const int row = (l >> 2) + (i < 2 ? 0 : 8), column = (l % 4) * 2 + (i & 1);
      double sum = lanes[l]->c[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      lanes[l]->c[i] = cut_off(sum);
    }
  }
}

struct MatrixRows {
  const void* row;
  uint32_t* word;
};

inline void load_warp(void* const* of_lane) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    for (int l = 0; l < 32; ++l) {
      const void* row = static_cast<MatrixRows*>(of_lane[8 * matrix + l / 4])->row;
      if (reinterpret_cast<uintptr_t>(row) % 16) __builtin_trap();  // a GPU faults as well
      std::memcpy(static_cast<MatrixRows*>(of_lane[l])->word + matrix,
                  static_cast<const char*>(row) + 4 * (l % 4), 4);
    }
  }
}

}  // namespace emulator

namespace outdim::cuda {

template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  emulator::Fragments mine{a, {b0, b1}, c};
  emulator::together(&mine, std::is_same_v<T, __half> ? 4 : 5, &emulator::multiply_warp<T>);
}

inline void load_matrices(uint32_t (&word)[4], const void* row) {
  emulator::MatrixRows mine{row, word};
  emulator::together(&mine, 6, &emulator::load_warp);
}

inline void start_copy(void* shared, const void* global, bool there) {
  emulator::start_copy(shared, global, there);
}
inline void wait_for_copies() { emulator::wait_for_copies(); }

inline float power_of_two(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

}  // namespace outdim::cuda
