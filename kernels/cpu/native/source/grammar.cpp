// The grammar mask: what a row may not draw becomes minus infinity. One pass over the row, written at most once.
#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "sampling_lanes.h"

namespace quire::sampling {
namespace {

constexpr IntLanes kBits = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                            1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
constexpr long kWord = 32;

// Sixteen tokens, of which bit i allows the i-th.
void keep_lanes(float* values, uint32_t bits) {
    const IntLanes is_allowed = ((IntLanes{} + static_cast<int32_t>(bits & 0xffff)) & kBits) != 0;
    store(values, is_allowed ? load(values) : filled(-kInfinity));
}

void keep_word(float* values, long count, uint32_t bits) {
    if (count == kWord) {
        if (bits == 0xffffffffu) return;
        keep_lanes(values, bits);
        keep_lanes(values + kLanes, bits >> kLanes);
        return;
    }
    for (long place = 0; place < count; ++place)
        if (!(bits >> place & 1)) values[place] = -kInfinity;
}

}  // namespace
}  // namespace quire::sampling

// logits [., size], rows `stride` numbers apart; rows int64 [count], and of each its bits, `num_words` apart: bit i of
// word w is token 32 w + i.
QUIRE_EXPORT void quire_keep_allowed(float* logits, long stride, long size, const int64_t* rows, const uint32_t* bits,
                                     long num_words, long count) {
    using namespace quire::sampling;
    quire::parallel_rows(count, 4 * size, [=](long first, long last) {
        for (long row = first; row < last; ++row) {
            float* values = logits + rows[row] * stride;
            const uint32_t* words = bits + row * num_words;
            for (long place = 0; place < size; place += kWord)
                keep_word(values + place, std::min(kWord, size - place), words[place / kWord]);
        }
    });
}
