// Products of rows quantised on the way with int8 weights, summed exactly in int32; kernels/cpu/linear_int8.py is
// the same in torch. Rows are taken as whole numbers + 128, what VNNI multiplies: the weights' sums make up for it.
#include <vector>

#include "linear.h"

namespace quire::linear {
namespace {

struct Int8Dot {
    using Sum = Ints;
    // With 12 rows what GCC 12 makes of it is half as fast.
    static constexpr int TILE = TILE_ROWS < 8 ? TILE_ROWS : 8;
    static inline Sum zero() { return all_ints(0); }
#if defined(__AVX512VNNI__)
    static inline Sum add(Sum sum, Ints weight, Ints x) { return _mm512_dpbusd_epi32(sum, x, weight); }
#elif defined(__AVX512F__)
    static inline Sum add(Sum sum, Ints weight, Ints x) {
        const Ints even = _mm512_srai_epi16(_mm512_slli_epi16(weight, 8), 8), odd = _mm512_srai_epi16(weight, 8);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(and_ints(x, all_ints(0x00ff00ff)), even));
        return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_srli_epi16(x, 8), odd));
    }
#else
    static inline Sum add(Sum sum, Ints weight, Ints x) {
        const Ints even = _mm256_srai_epi16(_mm256_slli_epi16(weight, 8), 8), odd = _mm256_srai_epi16(weight, 8);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(and_ints(x, all_ints(0x00ff00ff)), even));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(x, 8), odd));
    }
#endif
};

#if defined(__AVX512F__)
inline Vec less_to_floats(Ints sum, const int32_t* less) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, load_ints(less)));
}
inline void store_bytes(uint8_t* to, Vec whole) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(whole));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_xor_si128(bytes, _mm_set1_epi8(-128)));
}
#else
inline Vec less_to_floats(Ints sum, const int32_t* less) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, load_ints(less)));
}
inline void store_bytes(uint8_t* to, Vec whole) {
    alignas(32) float values[LANES];
    store(values, whole);
    for (int i = 0; i < LANES; ++i) to[i] = static_cast<uint8_t>(static_cast<int>(values[i]) + 128);
}
#endif

// body(vector, place) for all of a row; lanes behind its end are 0.
template <class In, class Body>
inline void each_vector(const In* x, long size, Body body) {
    long i = 0;
    for (; i + LANES <= size; i += LANES) body(load(x + i), i);
    if (i < size) body(load(x + i, static_cast<int>(size - i)), i);
}

constexpr float LEAST = 1e-30f;  // a row of nothing greater is taken for 0

// to [round_up(size, LANES)]; returns the scale, NaN for a row that is not finite throughout.
template <class In>
float quantize(const In* x, long size, uint8_t* to) {
    Vec largest = zero(), bad = zero();
    each_vector(x, size, [&](Vec v, long) {
        largest = max(largest, abs(v));
        bad = fma(v, zero(), bad);
    });
    const float most = max_of_lanes(largest), finite = sum_of_lanes(bad);
    const bool is_zero = finite != 0.0f || most < LEAST;
    const Vec inverse = broadcast(is_zero ? 0.0f : 127.0f / most);
    each_vector(x, size, [&](Vec v, long i) { store_bytes(to + i, is_zero ? zero() : round(mul(v, inverse))); });
    return finite != 0.0f ? finite : is_zero ? 0.0f : most / 127.0f;
}

struct Rows {
    std::vector<uint8_t> bytes;
    std::vector<float> scales;
};

template <class In>
void quantize_rows(const In* x, long stride, long rows, long in_size, long padded, Rows& into) {
    constexpr long FEW = 16 << 10;  // numbers that threads would not be quicker with
    if (static_cast<long>(into.bytes.size()) < rows * padded) into.bytes.resize(rows * padded);
    if (static_cast<long>(into.scales.size()) < rows) into.scales.resize(rows);
    uint8_t* bytes = into.bytes.data();
    float* scales = into.scales.data();
    const auto one = [=](long row) { scales[row] = quantize(x + row * stride, in_size, bytes + row * padded); };
    if (rows * in_size > FEW)
        parallel_chunks(rows, one);
    else
        for (long row = 0; row < rows; ++row) one(row);
}

template <class Bias, class Out>
void product(const Product& product, const float* x_scales, const float* scales, const int32_t* sums,
             const Bias* bias, Out* out, long out_size) {
    multiply<Int8Dot>(product, [=](long row, long column, Ints sum) {
        const Vec scale = mul(broadcast(x_scales[row]), load(scales + column));
        store_columns(mul(less_to_floats(sum, sums + column), scale), bias, out, out_size, row, column);
    });
}

template <class In>
void product_of(Product with, const float* scales, const int32_t* sums, long out_size, long in_size, const In* x,
                long stride, const In* bias, void* out, bool is_float) {
    static thread_local Rows held;
    const long padded = (in_size + 63) / 64 * 64;
    quantize_rows(x, stride, with.rows, in_size, padded, held);
    with.x = reinterpret_cast<const char*>(held.bytes.data());
    with.stride = padded;
    if (is_float)
        product(with, held.scales.data(), scales, sums, bias, static_cast<float*>(out), out_size);
    else
        product(with, held.scales.data(), scales, sums, bias, static_cast<bf16*>(out), out_size);
}

}  // namespace
}  // namespace quire::linear

using namespace quire;
using namespace quire::linear;

// weight [out_size][in_size] -> packed [panels][groups][COLUMNS][4], and 128 times the sum of each output's weights
// -> sums [panels * COLUMNS]; zeros where there is nothing.
QUIRE_EXPORT void quire_pack_int8(const int8_t* weight, long out_size, long in_size, int8_t* packed, int32_t* sums) {
    const long groups = (in_size + 3) / 4;
    parallel_chunks(panels_of(out_size), [=](long panel) {
        int8_t* to = packed + panel * groups * COLUMNS * 4;
        for (long group = 0; group < groups; ++group)
            for (long lane = 0; lane < COLUMNS * 4; ++lane) {
                const long out = panel * COLUMNS + lane / 4, in = group * 4 + lane % 4;
                *to++ = out < out_size && in < in_size ? weight[out * in_size + in] : 0;
            }
        for (long out = panel * COLUMNS; out < (panel + 1) * COLUMNS; ++out) {
            int32_t sum = 0;
            for (long in = 0; out < out_size && in < in_size; ++in) sum += weight[out * in_size + in];
            sums[out] = sum * 128;
        }
    });
}

// Rows `ids` [count], times their scales -> out [count][in_size]. False, and nothing done, for a row there is not.
QUIRE_EXPORT bool quire_rows_int8(const int8_t* packed, const float* scales, long out_size, long in_size,
                                  const int64_t* ids, long count, void* out, bool is_float) {
    const long groups = (in_size + 3) / 4;
    if (!std::all_of(ids, ids + count, [=](int64_t id) { return id >= 0 && id < out_size; })) return false;
    parallel_chunks(count, [=](long row) {
        const int8_t* from = packed + (ids[row] / COLUMNS * groups * COLUMNS + ids[row] % COLUMNS) * 4;
        for (long in = 0; in < in_size; ++in) {
            const float value = static_cast<float>(from[in / 4 * COLUMNS * 4 + in % 4]) * scales[ids[row]];
            if (is_float)
                static_cast<float*>(out)[row * in_size + in] = value;
            else
                static_cast<bf16*>(out)[row * in_size + in] = from_float<bf16>(value);
        }
    });
    return true;
}

// x [rows][in_size], `stride` elements from row to row, and bias [out_size] (or null), both of float32 where
// x_is_float, else of bfloat16; scales [panels * COLUMNS] -> out [rows][out_size] of float32 or bfloat16.
QUIRE_EXPORT void quire_linear_int8(const int8_t* packed, const float* scales, const int32_t* sums, long out_size,
                                    long in_size, const void* x, bool x_is_float, long stride, long rows,
                                    const void* bias, void* out, bool is_float) {
    const Product with{reinterpret_cast<const uint32_t*>(packed), panels_of(out_size), (in_size + 3) / 4, nullptr, 0,
                       rows, false};
    if (x_is_float)
        product_of(with, scales, sums, out_size, in_size, static_cast<const float*>(x), stride,
                   static_cast<const float*>(bias), out, is_float);
    else
        product_of(with, scales, sums, out_size, in_size, static_cast<const bf16*>(x), stride,
                   static_cast<const bf16*>(bias), out, is_float);
}
