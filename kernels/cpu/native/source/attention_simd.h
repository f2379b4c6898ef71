// Vectors for attention, by what the compiler may use: AVX2, AVX512, or AVX512 with bfloat16 dot products.
// A *unit* is the 32 bits that one lane multiplies at a time: a float, or (Bf16Math) two bfloat16 neighbours.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace quire::attention {

#if defined(__AVX512F__)

constexpr int kRegisterHeads = 4;  // heads whose sums are kept in registers at once
constexpr int kRegisterVecs = 4;   // vectors in a register tile's row

// The sums of four vectors' lanes.
inline __m128 sums_of_lanes(Vec a, Vec b, Vec c, Vec d) {
    const Vec ab = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Vec cd = add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const Vec quarters = add(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 half = _mm256_add_ps(low_half(quarters), high_half(quarters));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#else

constexpr int kRegisterHeads = 2;
constexpr int kRegisterVecs = 2;

inline __m128 sums_of_lanes(Vec a, Vec b, Vec c, Vec d) {
    const Vec sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

#endif

// 2^x for x <= 0 (and a little above), within 2 units in the last place; 0 where that is tiny, and a NaN stays one.
// 2^f = 1 + f p(f) on [-1/2, 1/2], p of degree 5 through the Chebyshev nodes: off by 1e-8.
inline Vec exp2(Vec x) {
    x = max(broadcast(-160.0f), x);  // the second where one is NaN
    const Vec whole = round(x);
    const Vec f = sub(x, whole);
    Vec p = broadcast(0.00015453163f);
    p = fma(p, f, broadcast(0.0013390863f));
    p = fma(p, f, broadcast(0.009618083f));
    p = fma(p, f, broadcast(0.05550357f));
    p = fma(p, f, broadcast(0.24022651f));
    p = fma(p, f, broadcast(0.69314718f));
    return scale_by_power(fma(p, f, broadcast(1.0f)), whole);
}
inline float exp2(float x) {
    float lanes[LANES];
    store(lanes, exp2(broadcast(x)));
    return lanes[0];
}

template <class T>
inline void write_scaled(const float* sums, int64_t head_dim, float factor, T* out) {
    for (int64_t d = 0; d < head_dim; d += LANES) store(out + d, mul(load(sums + d), broadcast(factor)));
}

constexpr int64_t kLine = 64;  // bytes of a cache line

// Into the second cache, which may have more fetches under way than the first: a third less time on Zen 4.
template <class T>
inline void prefetch_row(const T* row, int64_t head_dim) {
    for (int64_t d = 0; d < head_dim; d += kLine / int64_t(sizeof(T))) _mm_prefetch(row + d, _MM_HINT_T1);
}

// Floats, whatever the cache holds.
template <class T>
struct FloatMath {
    using Cache = T;
    using Query = float;
    static constexpr int kPerUnit = 1;
    static constexpr int kChunk = LANES;  // elements of a dot product's vector

    static Vec dot(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
    static Query query(T x) { return to_float(x); }
    static Vec load_query(const Query* p) { return load(p); }
    static Vec load_key(const T* p, int64_t) { return load(p); }
    // Elements d .. d + LANES of the values of a unit's tokens, side by side.
    static Vec value_unit(const T* const* tokens, int64_t d) { return load(tokens[0] + d); }
    // weights[0 .. n), n a multiple of 2 LANES, as units; returns their sum as rounded.
    static float round_weights(const float* weights, int64_t n, uint32_t* units) {
        Vec sum = zero();
        for (int64_t i = 0; i < n; i += LANES) {
            const Vec w = load(weights + i);
            sum = add(sum, w);
            store(reinterpret_cast<float*>(units) + i, w);
        }
        return sum_of_lanes(sum);
    }
};

#if defined(__AVX512BF16__)

// Products of bfloat16 pairs, summed in float; weights are rounded to bfloat16.
struct Bf16Math {
    using Cache = bf16;
    using Query = bf16;
    static constexpr int kPerUnit = 2;
    static constexpr int kChunk = 32;

    static Vec dot(Vec sum, Vec a, Vec b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
    static Query query(bf16 x) { return x; }
    static Vec load_query(const Query* p) { return _mm512_loadu_ps(p); }
    static Vec load_key(const bf16* p, int64_t left) {
        if (left >= kChunk) return _mm512_loadu_ps(p);
        return _mm512_castsi512_ps(_mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
    }
    static Vec value_unit(const bf16* const* tokens, int64_t d) {
        const __m512i pairs = _mm512_set_epi32(
            0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a, 0x290009, 0x280008,
            0x270007, 0x260006, 0x250005, 0x240004, 0x230003, 0x220002, 0x210001, 0x200000);
        const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tokens[0] + d));
        const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tokens[1] + d));
        return _mm512_castsi512_ps(
            _mm512_permutex2var_epi16(_mm512_castsi256_si512(first), pairs, _mm512_castsi256_si512(second)));
    }
    static float round_weights(const float* weights, int64_t n, uint32_t* units) {
        Vec sum = zero();
        const Vec ones = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80));
        for (int64_t i = 0; i < n; i += 2 * LANES) {
            const Vec rounded = (Vec)_mm512_cvtne2ps_pbh(load(weights + i + LANES), load(weights + i));
            sum = dot(sum, rounded, ones);
            _mm512_storeu_ps(units + i / 2, rounded);
        }
        return sum_of_lanes(sum);
    }
};
using CachedBf16Math = Bf16Math;

#else
using CachedBf16Math = FloatMath<bf16>;
#endif

inline Vec broadcast_unit(const uint32_t* p) {
    float unit;
    std::memcpy(&unit, p, 4);
    return broadcast(unit);
}

}  // namespace quire::attention
