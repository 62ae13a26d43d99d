// The CPU engine for what every machine of the architecture has.
#define FASTINIT_ISA baseline
#include "engine.h"
#include "moments.h"

namespace fastinit::cpu {
extern const FillFunction kBaselineFill = &baseline::fill_items;
extern const MeasureFunction kBaselineMeasure = &baseline::measure_range;
}  // namespace fastinit::cpu
