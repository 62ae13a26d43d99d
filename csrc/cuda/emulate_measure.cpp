// The kernels of measure.cu on the CPU, thread after thread, as emulate.cpp has those of fill.cu.
#include <vector>

#include "../kernels.h"
#include "measure.h"

namespace fastinit::cuda {
namespace {

constexpr int kRows = 2;

int64_t power_from(int64_t count) {
  int64_t power = 1;
  while (power < count) power *= 2;
  return power;
}

void fold_all(std::vector<Share>& shares) {
  shares.resize(power_from(static_cast<int64_t>(shares.size())));
  const auto count = static_cast<int64_t>(shares.size());
  for (int64_t half = count / 2; half > 0; half /= 2) {
    for (int64_t thread = count; thread-- > 0;) fold(shares.data(), thread, half);
  }
}

template <DType dtype>
Moments pass(const Strips& strips, int32_t* peaks, int64_t block, int64_t blocks, int64_t threads) {
  std::vector<Share> shares(threads);
  for (int64_t i = threads; i-- > 0;) {
    shares[i] = {measure_strips<dtype>(strips, peaks, block * threads + i, blocks * threads)};
  }
  fold_all(shares);
  return shares[0].moments;
}

}  // namespace

void emulate_measure(const MomentsSpec& spec, double* rows, float* peaks, int64_t blocks,
                     int64_t threads) {
  const Strips strips(spec);
  std::vector<int32_t> words(spec.units);
  std::vector<Moments> parts;
  for (int64_t block = 0; block < blocks; ++block) {
    const auto run = spec.dtype == DType::kFloat32    ? pass<DType::kFloat32>
                     : spec.dtype == DType::kBFloat16 ? pass<DType::kBFloat16>
                                                      : pass<DType::kFloat16>;
    parts.push_back(run(strips, words.data(), block, blocks, threads));
  }
  for (int64_t i = 0; i < kRows; ++i) {
    double* const row = rows + i * kRowColumns;
    const bool empty = row[0] == 0.0;
    std::vector<Share> shares(threads);
    for (int64_t thread = threads; thread-- > 0;) {
      shares[thread] = merge_parts(parts.data(), blocks, words.data(), peaks + i * spec.units,
                                   spec.units, empty, thread, threads);
    }
    fold_all(shares);
    add_to_row(row, shares[0].moments, shares[0].dead, spec.units);
  }
}

}  // namespace fastinit::cuda
