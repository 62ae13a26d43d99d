// The CPU engine and the emulated CUDA kernels without torch: every fill and matrix that standard
// input names, in all ways of ways.h; the bytes of each go to standard output, for the caller to
// compare with the recorded digests. __main__.py says how a fill is written, and compiles this for
// other processors, with other compilers and with sanitizers.
#include "ways.h"

namespace {

using namespace engine;

// Reading of standard input.

template <class T = int64_t>
T integer() {
  char word[64];
  if (scanf("%63s", word) != 1) fail("a number is missing");
  return static_cast<T>(strtoull(word, nullptr, 10));
}

double real() {
  double value;
  if (scanf("%la", &value) != 1) fail("a real number is missing");
  return value;
}

FillSpec read_fill() {
  FillSpec spec;
  Law& law = spec.law;
  law.distribution = static_cast<Distribution>(integer());
  spec.dtype = static_cast<DType>(integer());
  law.complex = integer() != 0;
  law.mean = real();
  law.std = real();
  law.low = real();
  law.high = real();
  law.fan.mode = static_cast<FanMode>(integer());
  law.fan.nonlinearity = static_cast<Nonlinearity>(integer());
  law.fan.parameter = real();
  law.fan.gain = real();
  law.fan.ndim = integer<int32_t>();
  for (int k = 0; k < law.fan.ndim; ++k) {
    law.fan.size[k] = integer();
    law.fan.role[k] = static_cast<AxisRole>(integer());
  }
  Layout& layout = spec.layout;
  layout.start = integer<uint64_t>();
  layout.ndim = integer<int32_t>();
  layout.numel = 1;
  for (int k = 0; k < layout.ndim; ++k) {
    layout.size[k] = integer();
    layout.global_stride[k] = integer<uint64_t>();
    layout.numel *= layout.size[k];
  }
  spec.key = {integer<uint64_t>(), integer<uint64_t>()};
  spec.sparse.zeros = integer();
  spec.sparse.rows = integer();
  spec.sparse.cols = integer();
  spec.sparse.key = child_key(spec.key, 0);
  return spec;
}
MatrixSpec read_matrix() {
  MatrixSpec spec;
  spec.dtype = static_cast<DType>(integer());
  spec.complex = integer() != 0;
  spec.gain = real();
  spec.rows = integer();
  spec.columns = integer();
  return spec;
}

Wanted read_wanted() {
  const int64_t begin = integer(), count = integer(), stride = integer();
  return {begin, count, stride};
}

Bytes make_matrix(const std::string& what) {
  MatrixSpec spec = read_matrix();
  const Wanted rows = read_wanted(), columns = read_wanted();
  spec.wanted_rows = rows.side();
  spec.wanted_columns = columns.side();
  spec.key = {integer<uint64_t>(), integer<uint64_t>()};
  return matrix_all_ways(spec, what);
}

}  // namespace

int main() {
  char kind[16];
  int number = 0;
  for (; scanf("%15s", kind) == 1; ++number) {
    const std::string what = std::string(kind) + " " + std::to_string(number);
    const Bytes bytes =
        strcmp(kind, "fill") == 0 ? fill_all_ways(read_fill(), what) : make_matrix(what);
    printf("%zu\n", bytes.size());
    fwrite(bytes.data(), 1, bytes.size(), stdout);
  }
  fprintf(stderr, "engine: %d fills agree in all ways\n", number);
  return 0;
}
