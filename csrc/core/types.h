#pragma once

#include <cstdint>

namespace outdim {

/// Storage type of hidden states and parameters. The values are part of the Python binding.
enum class DType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

constexpr int64_t item_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace outdim
