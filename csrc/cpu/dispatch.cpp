// Chooses the best instruction set that this binary holds and this processor can run.

#include "cpu/dispatch.h"

#include <atomic>
#include <stdexcept>

#if defined(OUTDIM_HAVE_amx)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace outdim::cpu {
namespace {

#if defined(OUTDIM_HAVE_avx512)
bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif
#if defined(OUTDIM_HAVE_amx)
/// Linux lets a process use tiles once it has asked (its signal stacks must be large enough), which
/// is for all its threads.
bool runs_amx() {
  if (!runs_avx512()) return false;
  unsigned a = 0, b = 0, c = 0, features = 0;
  constexpr unsigned kTile = 1u << 24, kBFloat16 = 1u << 22;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &features) == 0) return false;
  if ((features & (kTile | kBFloat16)) != (kTile | kBFloat16)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h, Intel SDM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif
#if defined(OUTDIM_HAVE_avx2)
// Every processor with AVX2 has F16C, which GCC before 11 cannot be asked about.
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

const std::vector<Kernels>& available() {
  static const std::vector<Kernels> list = [] {
    std::vector<Kernels> found;
#if defined(__x86_64__)
    const bool streams = !__builtin_cpu_is("intel");
#else
    const bool streams = false;
#endif
#define OUTDIM_KERNELS(isa)                                                                   \
  Kernels {                                                                                   \
    #isa, streams, &isa::kMomentsKernels, &isa::kLayerNormKernels, &isa::kSegmentSumsKernels, \
        &isa::kUnitSumsKernels, &isa::kSizesKernels, &isa::kAttentionKernels,                 \
        &isa::kMagnitudeCountsKernels, &isa::kTokenShapeKernels, &isa::kComomentsKernels      \
  }
#if defined(OUTDIM_HAVE_amx)
    if (runs_amx()) {
      Kernels with_tiles = OUTDIM_KERNELS(avx512);
      with_tiles.name = "amx";
      with_tiles.attention = &amx::kAttentionKernels;
      found.push_back(with_tiles);
    }
#endif
#if defined(OUTDIM_HAVE_avx512)
    if (runs_avx512()) found.push_back(OUTDIM_KERNELS(avx512));
#endif
#if defined(OUTDIM_HAVE_avx2)
    if (runs_avx2()) found.push_back(OUTDIM_KERNELS(avx2));
#endif
    found.push_back(OUTDIM_KERNELS(baseline));
#undef OUTDIM_KERNELS
    return found;
  }();
  return list;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& kernels() {
  const Kernels* choice = chosen.load(std::memory_order_relaxed);
  return choice != nullptr ? *choice : available().front();
}

std::string isa() { return kernels().name; }

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Kernels& each : available()) names.emplace_back(each.name);
  return names;
}

void set_isa(const std::string& name) {
  std::string known;
  for (const Kernels& each : available()) {
    if (name == each.name) {
      chosen.store(&each, std::memory_order_relaxed);
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(each.name);
  }
  throw std::invalid_argument("isa: expected one of " + known + ", got " + name);
}

}  // namespace outdim::cpu
