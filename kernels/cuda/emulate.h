// The kernels' machine on a host: every thread of a block is a coroutine, so barriers and sums over warps mean what
// they mean on a GPU. Slow and exact; for tests. A barrier that some threads never reach is an error here, not a hang,
// and shared memory starts as NaN.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace kgfast {
namespace host {

class Machine {
 public:
  static constexpr int kMost = 8;  // values that a thread hands to a collective

  explicit Machine(int threads)
      : threads_(threads), fibers_(threads), slots_(2 * threads * kMost), warps_(threads / 32) {
    for (Fiber& fiber : fibers_) {
      fiber.stack.resize(64 << 10);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Machine::start, 0);
    }
  }

  // Runs a block; after an error the machine is of no use any more, as some threads have not returned.
  template <class Body> void run(const Body& body, int64_t shared_bytes, int64_t x, int y) {
    current() = this;
    block_x_ = x, block_y_ = y, block_ = Barrier{}, done_ = 0;
    for (Barrier& barrier : warps_) barrier = Barrier{};
    memory_.assign(size_t(shared_bytes) + 16, char(0xff));
    call_ = [](const void* kernel) { (*static_cast<const Body*>(kernel))(); };
    kernel_ = &body;
    for (Fiber& fiber : fibers_) fiber.done = false;
    while (done_ < threads_ && error_.empty()) {
      const int64_t before_round = progress_;
      for (thread_ = 0; thread_ < threads_; ++thread_)
        if (!fibers_[thread_].done) resume(fibers_[thread_]);
      if (progress_ == before_round)
        error_ = "a block waits for ever: some of its threads never reach a barrier or a sum over a warp";
    }
    if (!error_.empty()) throw std::runtime_error(error_);
  }

  static Machine*& current() {
    static thread_local Machine* machine = nullptr;
    return machine;
  }
  int thread() const { return thread_; }
  int64_t block_x() const { return block_x_; }
  int block_y() const { return block_y_; }
  char* memory() { return memory_.data() + (16 - reinterpret_cast<uintptr_t>(memory_.data()) % 16) % 16; }
  void sync() { wait(block_, threads_); }
  void sync_warp() { wait(warps_[thread_ / 32], 32); }

  // x[i] of all threads of the warp becomes their fold, in the GPU's order: halves, quarters, ..
  template <class Fold> void fold_warp(float* x, int count, Fold fold) {
    const int own = thread_, first = own / 32 * 32;
    float* slots = slots_.data() + warps_[own / 32].generation % 2 * threads_ * kMost;
    std::memcpy(slots + own * kMost, x, size_t(count) * sizeof(float));
    sync_warp();
    for (int i = 0; i < count; ++i) {
      float values[32];
      for (int t = 0; t < 32; ++t) values[t] = slots[(first + t) * kMost + i];
      for (int half = 16; half > 0; half /= 2)
        for (int t = 0; t < half; ++t) values[t] = fold(values[t], values[t + half]);
      x[i] = values[0];
    }
  }

 private:
  struct Fiber {
    ucontext_t context;  // to begin with; jumps are faster afterwards, as they leave signals alone
    jmp_buf place;
    std::vector<char> stack;
    bool begun = false, done = false;
  };
  struct Barrier {
    int arrived = 0;
    int64_t generation = 0;
  };

  void wait(Barrier& barrier, int count) {
    const int64_t generation = barrier.generation;
    ++progress_;
    if (++barrier.arrived == count) {
      barrier.arrived = 0, ++barrier.generation;
      return;
    }
    while (barrier.generation == generation) pause(fibers_[thread_]);
  }
  __attribute__((noinline)) void resume(Fiber& fiber) {
    if (_setjmp(scheduler_)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
  }
  __attribute__((noinline)) void pause(Fiber& fiber) {
    if (!_setjmp(fiber.place)) _longjmp(scheduler_, 1);
  }
  static void start() {
    Machine& machine = *current();
    Fiber& fiber = machine.fibers_[machine.thread_];
    while (true) {  // one block after the other
      try {
        machine.call_(machine.kernel_);
      } catch (const std::exception& error) {  // no exception may leave a thread
        machine.error_ = error.what();
      }
      fiber.done = true;
      ++machine.done_, ++machine.progress_;
      machine.pause(fiber);
    }
  }

  int threads_, thread_ = 0, block_y_ = 0, done_ = 0;
  int64_t block_x_ = 0, progress_ = 0;
  std::vector<Fiber> fibers_;
  std::vector<float> slots_;
  std::vector<Barrier> warps_;
  Barrier block_;
  std::vector<char> memory_;
  jmp_buf scheduler_;
  void (*call_)(const void*) = nullptr;
  const void* kernel_ = nullptr;
  std::string error_;
};

inline int thread() { return Machine::current()->thread(); }
inline int64_t block_x() { return Machine::current()->block_x(); }
inline int block_y() { return Machine::current()->block_y(); }
inline void sync() { Machine::current()->sync(); }
inline void sync_warp() { Machine::current()->sync_warp(); }
inline char* shared_memory() { return Machine::current()->memory(); }
template <int R> inline void sum_warp(float (&x)[R]) {
  static_assert(R <= Machine::kMost, "a larger Machine::kMost is needed");
  Machine::current()->fold_warp(x, R, [](float a, float b) { return a + b; });
}
inline float max_warp(float x) {
  Machine::current()->fold_warp(&x, 1, [](float a, float b) { return std::fmax(a, b); });
  return x;
}
inline void load_four(const float* from, float* to) {
  if (reinterpret_cast<uintptr_t>(from) % 16)
    throw std::runtime_error("a load of 16 bytes from an address that is no multiple of 16");
  std::memcpy(to, from, 16);
}
inline void store_four(float* to, const float* x) {
  if (reinterpret_cast<uintptr_t>(to) % 16)
    throw std::runtime_error("a store of 16 bytes to an address that is no multiple of 16");
  std::memcpy(to, x, 16);
}

// The grids of this thread's launches, for tests: of sizes that no memory holds too, where `runs` is false.
struct Launches {
  bool runs = true;
  std::vector<std::pair<int64_t, int64_t>> grids;

  static Launches& seen() {
    static thread_local Launches launches;
    return launches;
  }
};

template <class Body, class G> void launch(const Body& body, G grid, int64_t shared_bytes, void*) {
  static thread_local std::map<int, std::unique_ptr<Machine>> machines;
  if (grid.x == 0 || grid.y == 0) return;
  check_grid(grid);
  Launches::seen().grids.emplace_back(grid.x, grid.y);
  if (!Launches::seen().runs) return;
  std::unique_ptr<Machine> machine = std::move(machines[Body::kThreads]);
  if (!machine) machine = std::make_unique<Machine>(Body::kThreads);
  for (int64_t y = 0; y < grid.y; ++y)
    for (int64_t x = 0; x < grid.x; ++x) machine->run(body, shared_bytes, x, int(y));
  machines[Body::kThreads] = std::move(machine);  // not after an error
}

}  // namespace host
}  // namespace kgfast
