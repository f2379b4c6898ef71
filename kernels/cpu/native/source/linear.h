// Matrix products with weights in panels of COLUMNS outputs, [panels][groups][COLUMNS] lanes of 32 bits; a lane holds
// one output's weights for inputs that follow each other, 2 of bfloat16 or 4 of int8. An output is summed over the
// inputs in one fixed order: a row's result depends neither on the rows beside it nor on the number of threads.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <utility>

#include "parallel.h"
#include "simd.h"

namespace quire::linear {

#if defined(__AVX512F__)
using Ints = __m512i;
inline Ints load_ints(const void* from) { return _mm512_loadu_si512(from); }
inline Ints all_ints(int32_t value) { return _mm512_set1_epi32(value); }
inline Ints and_ints(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Vec as_floats(Ints bits) { return _mm512_castsi512_ps(bits); }
#else
using Ints = __m256i;
inline Ints load_ints(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline Ints all_ints(int32_t value) { return _mm256_set1_epi32(value); }
inline Ints and_ints(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Vec as_floats(Ints bits) { return _mm256_castsi256_ps(bits); }
#endif

// A tile's sums stay in registers: 24 of 32, or 8 of 16; where weights are widened first, these take registers too.
#if defined(__AVX512BF16__)
constexpr int TILE_ROWS = 12;
#elif defined(__AVX512F__)
constexpr int TILE_ROWS = 8;
#else
constexpr int TILE_ROWS = 4;
#endif
constexpr int VECTORS = 2;
constexpr int COLUMNS = LANES * VECTORS;
// A block of x, its sums and a panel's part stay in 1 MB of L2.
constexpr long BLOCK_ROWS = 192;
constexpr long BLOCK_GROUPS = 1024;

// Packed weights and the rows they meet. x: `rows` rows, `stride` bytes apart, of `groups` groups; where has_tail
// the last group has only its first half (an odd number of bfloat16 inputs).
struct Product {
    const uint32_t* weight;
    long panels;
    long groups;
    const char* x;
    long stride;
    long rows;
    bool has_tail;
};

template <class Dot, int ROWS>
using Sums = typename Dot::Sum[ROWS][VECTORS];

template <class Dot, int ROWS>
inline __attribute__((always_inline)) void add_group(Sums<Dot, ROWS>& sums, const uint32_t* weight,
                                                     const int32_t (&x)[ROWS]) {
    Ints of_weight[VECTORS];
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; ++v) of_weight[v] = load_ints(weight + v * LANES);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
        const Ints of_x = all_ints(x[row]);
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) sums[row][v] = Dot::add(sums[row][v], of_weight[v], of_x);
    }
}

template <class Dot, int ROWS>
inline __attribute__((always_inline)) void add_groups(Sums<Dot, ROWS>& sums, const uint32_t* weight, const char* x,
                                                      long stride, long groups) {
    // Few rows are bound by memory, which the CPU then reads ahead well enough. The more rows, the slower it is read:
    // asked for early, into L2, it comes while there is something to compute.
    constexpr auto TO = ROWS < 6 ? _MM_HINT_T0 : _MM_HINT_T1;
    constexpr long AHEAD_BYTES = 4096;
    int32_t of_x[ROWS];
    for (long group = 0; group < groups; ++group, weight += COLUMNS, x += 4) {
        for (int byte = 0; byte < COLUMNS * 4; byte += 64)
            _mm_prefetch(reinterpret_cast<const char*>(weight) + AHEAD_BYTES + byte, TO);
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) std::memcpy(&of_x[row], x + row * stride, 4);
        add_group<Dot, ROWS>(sums, weight, of_x);
    }
}

template <class Dot, int ROWS>
inline void add_tail(Sums<Dot, ROWS>& sums, const uint32_t* weight, const char* x, long stride) {
    int32_t of_x[ROWS];
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
        uint16_t half;
        std::memcpy(&half, x + row * stride, 2);
        of_x[row] = half;
    }
    add_group<Dot, ROWS>(sums, weight, of_x);
}

// Groups [first, last) of ROWS rows from `row` on with one panel. `partial` holds the sums of the groups before and
// takes the new ones, unless the panel ends here: then finish(row, vector, sum) does.
template <class Dot, int ROWS, class Finish>
void tile(const Product& product, const uint32_t* panel, long row, long first, long last, typename Dot::Sum* partial,
          const Finish& finish) {
    Sums<Dot, ROWS> sums;
#pragma GCC unroll 16
    for (int i = 0; i < ROWS * VECTORS; ++i) sums[i / VECTORS][i % VECTORS] = first == 0 ? Dot::zero() : partial[i];
    const bool is_last = last == product.groups, has_tail = is_last && product.has_tail;
    const char* x = product.x + row * product.stride;
    add_groups<Dot, ROWS>(sums, panel + first * COLUMNS, x + first * 4, product.stride, last - first - has_tail);
    if (has_tail) add_tail<Dot, ROWS>(sums, panel + (last - 1) * COLUMNS, x + (last - 1) * 4, product.stride);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS * VECTORS; ++i) {
        if (is_last)
            finish(row + i / VECTORS, i % VECTORS, sums[i / VECTORS][i % VECTORS]);
        else
            partial[i] = sums[i / VECTORS][i % VECTORS];
    }
}

template <class Dot, class Finish, int... BELOW>
inline void tile_of(long size, std::integer_sequence<int, BELOW...>, const Product& product, const uint32_t* panel,
                    long row, long first, long last, typename Dot::Sum* partial, const Finish& finish) {
    ((size == BELOW + 1 && (tile<Dot, BELOW + 1>(product, panel, row, first, last, partial, finish), true)) || ...);
}

// Room for the sums of a block of rows with one panel, of each thread.
template <class Sum>
Sum* partial_sums() {
    struct Free {
        void operator()(Sum* sums) const { std::free(sums); }
    };
    static thread_local std::unique_ptr<Sum, Free> held(
        static_cast<Sum*>(std::aligned_alloc(64, sizeof(Sum) * BLOCK_ROWS * VECTORS)));
    return held.get();
}

// Rows [start, end), at most BLOCK_ROWS, with one panel: finish(row, vector, sum) for each.
template <class Dot, class Finish>
void panel_product(const Product& product, const uint32_t* panel, long start, long end, const Finish& finish) {
    const long rows = end - start, tiles = (rows + Dot::TILE - 1) / Dot::TILE;
    const bool is_blocked = tiles > 1 && product.groups > BLOCK_GROUPS;
    const long step = is_blocked ? BLOCK_GROUPS : product.groups;
    auto* partial = is_blocked ? partial_sums<typename Dot::Sum>() : nullptr;
    for (long first = 0; first < product.groups; first += step) {
        const long last = std::min(first + step, product.groups);
        for (long t = 0; t < tiles; ++t) {
            const long row = rows * t / tiles, size = rows * (t + 1) / tiles - row;
            tile_of<Dot>(size, std::make_integer_sequence<int, Dot::TILE>(), product, panel, start + row, first, last,
                         is_blocked ? partial + row * VECTORS : nullptr, finish);
        }
    }
}

// finish(row, column, sum) for LANES columns from `column` on, of every row and panel, from any thread.
template <class Dot, class Finish>
void multiply(const Product& product, const Finish& finish) {
    constexpr long CHUNK_BYTES = 128 << 10;  // of weights, where there is but one row
    if (product.rows == 0) return;
    const long blocks = (product.rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const long wanted = CHUNK_BYTES / (product.groups * COLUMNS * 4 * std::min(product.rows, 8L));
    const long width = std::max(1L, std::min(wanted, product.panels / (4 * omp_get_max_threads())));
    const long across = (product.panels + width - 1) / width;
    parallel_chunks(blocks * across, [&](long chunk) {
        const long block = chunk / across, from = chunk % across * width;
        const long start = product.rows * block / blocks, end = product.rows * (block + 1) / blocks;
        for (long panel = from; panel < std::min(from + width, product.panels); ++panel)
            panel_product<Dot>(product, product.weight + panel * product.groups * COLUMNS, start, end,
                               [&](long row, int vector, typename Dot::Sum sum) {
                                   finish(row, panel * COLUMNS + vector * LANES, sum);
                               });
    });
}

// out[row][column...] = values + bias, of as many columns as there are.
template <class Out, class Bias>
inline void store_columns(Vec values, const Bias* bias, Out* out, long out_size, long row, long column) {
    const long columns = out_size - column;
    if (columns >= LANES) {
        if (bias) values = add(values, load(bias + column));
        store(out + row * out_size + column, values);
    } else if (columns > 0) {
        if (bias) values = add(values, load(bias + column, static_cast<int>(columns)));
        store(out + row * out_size + column, values, static_cast<int>(columns));
    }
}

inline long panels_of(long out_size) { return (out_size + COLUMNS - 1) / COLUMNS; }

}  // namespace quire::linear
