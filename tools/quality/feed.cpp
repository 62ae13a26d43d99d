// feed STREAM SEED NAMES: the words of a stream to standard output, without end. With a fourth
// argument, SmallCrush, Crush or BigCrush, what a battery of TestU01 (L'Ecuyer and Simard 2007)
// finds in them instead, one line a statistic: its p-value, a tab, its name; and the seconds of a
// processor that this took. BigCrush takes a fifth, the number of the one test to run, on 2^35
// words that no other test reads. NAMES is a file of 64-bit digests.
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "streams.h"

#if defined(WITH_TESTU01)
extern "C" {
#include <bbattery.h>
#include <swrite.h>
#include <unif01.h>
}
#endif

namespace {

std::vector<uint64_t> read_names(const char* path) {
  std::vector<uint64_t> names;
  if (FILE* file = fopen(path, "rb")) {
    uint64_t digest;
    while (fread(&digest, sizeof(digest), 1, file) == 1) names.push_back(digest);
    fclose(file);
  }
  return names;
}

quality::Reader* reader = nullptr;

#if defined(WITH_TESTU01)
constexpr int kBigCrushTests = 106;                               // of BigCrush
constexpr uint64_t kTestChunks = (1ull << 35) / quality::kChunk;  // more than any of them reads

void run_big_crush(unif01_Gen* generator, int test) {
  int times[1 + kBigCrushTests] = {};
  times[test] = 1;
  reader->skip(static_cast<uint64_t>(test) * kTestChunks);
  bbattery_RepeatBigCrush(generator, times);
}
#endif

int run_battery(const char* name, const char* battery, int test) {
#if defined(WITH_TESTU01)
  swrite_Basic = FALSE;
  char title[64];
  snprintf(title, sizeof(title), "%s", name);
  unif01_Gen* generator = unif01_CreateExternGenBits(title, [] { return reader->next(); });
  if (strcmp(battery, "SmallCrush") == 0) {
    bbattery_SmallCrush(generator);
  } else if (strcmp(battery, "Crush") == 0) {
    bbattery_Crush(generator);
  } else if (strcmp(battery, "BigCrush") == 0 && test > 0 && test <= kBigCrushTests) {
    run_big_crush(generator, test);
  } else {
    return 2;
  }
  for (int i = 0; i < bbattery_NTests; ++i) {
    printf("p\t%.17g\t%s\n", bbattery_pVal[i], bbattery_TestNames[i]);
  }
  printf("seconds\t%.1f\n", static_cast<double>(clock()) / CLOCKS_PER_SEC);
  return 0;
#else
  fprintf(stderr, "%s, %s: built without TestU01\n", name, battery);
  return 2;
#endif
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    for (const quality::Stream& stream : quality::kStreams) puts(stream.name);
    return 2;
  }
  reader = new quality::Reader(arguments[1], strtoull(arguments[2], nullptr, 0),
                               read_names(arguments[3]));
  if (!reader->found()) return 2;
  if (count > 4) return run_battery(arguments[1], arguments[4], count > 5 ? atoi(arguments[5]) : 0);
  while (fwrite(reader->next_chunk(), sizeof(quality::Chunk), 1, stdout) == 1) {
  }
  return 0;
}
