#pragma once

// Threads for the kernels, borrowed from the OpenMP runtime that torch has already loaded.
//
// A pool of our own next to torch's was measured and lost: the workers of libgomp spin for a while
// after every torch op, so our threads fight them for the cores (right after a torch op, 2048 x 768
// moments took 407 us with an own pool, 299 us on one thread, 208 us through GOMP_parallel).
// Threads of our own are used only where the process has no OpenMP.

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

namespace outdim::cpu {

/// Hands out the numbers 0 .. tasks - 1, each once.
class TaskQueue {
 public:
  explicit TaskQueue(int64_t tasks) : tasks_(tasks) {}
  /// The next task, or -1 when there is none left.
  int64_t next() {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < tasks_ ? task : -1;
  }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t tasks_;
};

/// Runs `worker` on up to `threads` threads; each takes tasks until the queue is empty. What a task
/// computes must not depend on who runs it. The first exception of a worker is thrown here. In a
/// child of fork() it runs on the calling thread alone: the OpenMP workers did not survive the
/// fork, and waiting for them would hang.
void run_workers(int64_t tasks, int threads, const std::function<void(TaskQueue&)>& worker);

/// The same, without a copy of the worker on the heap.
template <class Worker>
void run_tasks(int64_t tasks, int threads, const Worker& worker) {
  run_workers(tasks, threads, std::cref(worker));
}

/// Where threads come from: the path of the OpenMP runtime, "threads" where there is none, "serial"
/// after a fork.
std::string threading();

}  // namespace outdim::cpu
