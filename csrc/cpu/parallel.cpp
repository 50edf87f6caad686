#include "cpu/parallel.h"

#include <dlfcn.h>
#include <unistd.h>

#if defined(__linux__)
#include <link.h>
#endif

#include <algorithm>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace outdim::cpu {
namespace {

/// libomp and libiomp5 export this entry of libgomp as well.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

struct Runtime {
  std::string path;
  GompParallel parallel = nullptr;
};

// The process that loaded this module; a child of fork() has another id.
const pid_t loaded_by = getpid();

bool forked() { return getpid() != loaded_by; }

#if defined(__linux__)
int collect(dl_phdr_info* info, size_t, void* paths) {
  const std::string path = info->dlpi_name;
  const std::string name = path.substr(path.rfind('/') + 1);
  // Wheels may carry a renamed copy (libgomp-a34b3233.so.1), hence prefixes.
  for (const char* prefix : {"libgomp", "libomp.", "libomp-", "libiomp5"})
    if (name.rfind(prefix, 0) == 0) static_cast<std::vector<std::string>*>(paths)->push_back(path);
  return 0;
}
#endif

/// OpenMP runtimes in the process. Where there are several, torch's own comes first.
std::vector<std::string> loaded_runtimes() {
  std::vector<std::string> paths;
#if defined(__linux__)
  dl_iterate_phdr(collect, &paths);
#else
  paths = {"libomp.dylib", "libiomp5.dylib"};
#endif
  std::stable_partition(paths.begin(), paths.end(), [](const std::string& path) {
    return path.find("/torch/") != std::string::npos;
  });
  return paths;
}

/// Looked for until one is found: torch may be imported after this module.
Runtime find_runtime() {
  static std::mutex mutex;
  static Runtime found;
  std::lock_guard<std::mutex> lock(mutex);
  if (found.parallel != nullptr) return found;
  for (const std::string& path : loaded_runtimes()) {
    // RTLD_NOLOAD: only what is there already; the handle is kept so that it stays.
    void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) continue;
    auto parallel = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
    if (parallel != nullptr) {
      found = {path, parallel};
      break;
    }
  }
  return found;
}

struct Team {
  TaskQueue queue;
  const std::function<void(TaskQueue&)>& worker;
  std::mutex mutex;
  std::exception_ptr error;

  void work() noexcept {
    try {
      worker(queue);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
};

void work(void* team) { static_cast<Team*>(team)->work(); }

}  // namespace

void run_workers(int64_t tasks, int threads, const std::function<void(TaskQueue&)>& worker) {
  if (tasks <= 0) return;
  Team team{TaskQueue(tasks), worker, {}, nullptr};
  const int64_t size = std::min<int64_t>(threads, tasks);
  if (size <= 1 || forked()) {
    team.work();
  } else if (const Runtime runtime = find_runtime(); runtime.parallel != nullptr) {
    runtime.parallel(work, &team, static_cast<unsigned>(size), 0);
  } else {
    std::vector<std::thread> others;
    try {
      for (int64_t i = 1; i < size; ++i) others.emplace_back(work, &team);
    } catch (const std::system_error&) {
      // No more threads to be had: those there are do the work.
    }
    team.work();
    for (std::thread& other : others) other.join();
  }
  if (team.error) std::rethrow_exception(team.error);
}

std::string threading() {
  if (forked()) return "serial";
  const Runtime runtime = find_runtime();
  return runtime.parallel != nullptr ? runtime.path : "threads";
}

}  // namespace outdim::cpu
