// The CUDA kernels' sources for the host (kernels/cuda/emulate.h): what tests run where there is no GPU.
#if defined(__linux__)
#include "../kernels/cuda/pairs.cu"
#include "../kernels/cuda/queries.cu"
#include "../kernels/cuda/rows.cu"
#include "../kernels/cuda/sampled.cu"
#include "../kernels/cuda/sampling.cu"
#include "../kernels/cuda/shared.cu"
#include "../kernels/cuda/sort.cu"

namespace kgfast {
namespace host {

void watch_launches(bool runs) { Launches::seen() = Launches{runs, {}}; }
std::vector<std::pair<int64_t, int64_t>> launched_grids() { return Launches::seen().grids; }

}  // namespace host
}  // namespace kgfast
#endif
