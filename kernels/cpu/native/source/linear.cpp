// Products of bfloat16 rows with bfloat16 weights, summed in float32 and rounded once. At levels without bfloat16
// instructions both factors are widened on the way.
#include "linear.h"

namespace quire::linear {
namespace {

struct Bfloat16Dot {
    using Sum = Vec;
    static constexpr int TILE = TILE_ROWS;
    static inline Sum zero() { return quire::zero(); }
    static inline Sum add(Sum sum, Ints weight, Ints x) {
#if defined(__AVX512BF16__)
        return _mm512_dpbf16_ps(sum, (__m512bh)weight, (__m512bh)x);
#else
        const Ints upper = all_ints(static_cast<int32_t>(0xffff0000u));
        sum = fma(as_floats(lower(weight)), as_floats(lower(x)), sum);
        return fma(as_floats(and_ints(weight, upper)), as_floats(and_ints(x, upper)), sum);
#endif
    }
#if defined(__AVX512F__)
    static inline Ints lower(Ints lanes) { return _mm512_slli_epi32(lanes, 16); }
#else
    static inline Ints lower(Ints lanes) { return _mm256_slli_epi32(lanes, 16); }
#endif
};

template <class Out>
void product(const Product& product, const bf16* bias, Out* out, long out_size) {
    multiply<Bfloat16Dot>(product, [=](long row, long column, Vec sum) {
        store_columns(sum, bias, out, out_size, row, column);
    });
}

}  // namespace
}  // namespace quire::linear

using namespace quire;
using namespace quire::linear;

QUIRE_EXPORT long quire_panel_columns() { return COLUMNS; }

// weight [out_size][in_size] of bfloat16 -> packed [panels][groups][COLUMNS][2], zeros where there is nothing.
QUIRE_EXPORT void quire_pack_bf16(const uint16_t* weight, long out_size, long in_size, uint16_t* packed) {
    constexpr long STEP = 16;  // groups of all columns that are written at a time: what they take stays in L1
    const long groups = (in_size + 1) / 2, whole = in_size / 2;
    parallel_chunks(panels_of(out_size), [=](long panel) {
        uint16_t* to = packed + panel * groups * COLUMNS * 2;
        const long columns = std::min<long>(COLUMNS, out_size - panel * COLUMNS);
        const uint16_t* from = weight + panel * COLUMNS * in_size;
        if (columns < COLUMNS || whole < groups) std::memset(to, 0, groups * COLUMNS * 4);
        for (long first = 0; first < whole; first += STEP) {
            const long last = std::min(first + STEP, whole);
            for (long column = 0; column < columns; ++column)
                for (long group = first; group < last; ++group)
                    std::memcpy(to + (group * COLUMNS + column) * 2, from + column * in_size + group * 2, 4);
        }
        for (long column = 0; whole < groups && column < columns; ++column)
            to[(whole * COLUMNS + column) * 2] = from[column * in_size + in_size - 1];
    });
}

// Rows `ids` [count] of what was packed -> out [count][in_size]. False, and nothing done, where there is no such row.
QUIRE_EXPORT bool quire_rows_bf16(const uint16_t* packed, long out_size, long in_size, const int64_t* ids, long count,
                                  uint16_t* out) {
    const long groups = (in_size + 1) / 2, few = 8;
    if (!std::all_of(ids, ids + count, [=](int64_t id) { return id >= 0 && id < out_size; })) return false;
    const auto copy = [=](long row) {
        const uint16_t* from = packed + (ids[row] / COLUMNS * groups * COLUMNS + ids[row] % COLUMNS) * 2;
        uint16_t* to = out + row * in_size;
        for (long in = 0; in < in_size; ++in) to[in] = from[in / 2 * COLUMNS * 2 + in % 2];
    };
    if (count > few)
        parallel_chunks(count, copy);
    else
        for (long row = 0; row < count; ++row) copy(row);
    return true;
}

// x [rows][in_size], `stride` elements from row to row, with packed weights, and bias [out_size] or null
// -> out [rows][out_size], of float32 where is_float, else of bfloat16.
QUIRE_EXPORT void quire_linear_bf16(const void* packed, long out_size, long in_size, const void* x, long stride,
                                    long rows, const void* bias, void* out, bool is_float) {
    const Product with{static_cast<const uint32_t*>(packed), panels_of(out_size), (in_size + 1) / 2,
                       static_cast<const char*>(x),          stride * 2,          rows,
                       in_size % 2 != 0};
    const bf16* of_bias = static_cast<const bf16*>(bias);
    if (is_float)
        product(with, of_bias, static_cast<float*>(out), out_size);
    else
        product(with, of_bias, static_cast<bf16*>(out), out_size);
}
