#pragma once

#include <string>
#include <vector>

namespace outdim::cpu {

std::string isa();
std::vector<std::string> isas();
/// Throws std::invalid_argument for a name that is not in isas().
void set_isa(const std::string& name);

}  // namespace outdim::cpu
