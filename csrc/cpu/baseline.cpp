// The CPU engine for what every machine of the architecture has.
#define FASTINIT_ISA baseline
#include "engine.h"
#include "moments.h"
#include "orthogonal.h"

namespace fastinit::cpu {
extern const Functions kBaseline{&baseline::fill_items, &baseline::measure_range,
                                 &baseline::orthogonal_memory, &baseline::orthogonal_matrix};
}  // namespace fastinit::cpu
