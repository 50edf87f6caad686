#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace outdim::cpu {

/// Throws std::out_of_range naming the row whose group [n] (null: none) is above `groups`.
inline void check_group(const uint8_t* group, int64_t n, int groups) {
  if (group == nullptr || n == 0) return;
  const uint8_t* const most = std::max_element(group, group + n);
  if (*most > groups)
    throw std::out_of_range("group: row " + std::to_string(most - group) + " has group " +
                            std::to_string(*most) + " of " + std::to_string(groups));
}

}  // namespace outdim::cpu
