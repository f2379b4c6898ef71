// Query rows against the keys and values of one kv head, in tiles of 64 keys (Dao et al. 2022): a tile's keys and
// values are laid out once for the multiplier, then gone through by six query rows at a time. A query row is one
// token's query for one head; rows go by token, then head. Knows nothing of where a result goes.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <memory>

#include "attention.h"
#include "attention_simd.h"

namespace quire::attention {

constexpr int64_t kKeys = 64;  // of a tile
constexpr int kRows = 6;       // of a register tile

// A thread's memory, kept from call to call. Everything in units of 32 bits.
struct Scratch {
    int64_t head_dim = 0, max_rows = 0;
    std::unique_ptr<uint32_t[]> memory;
    uint32_t *query, *keys, *values;
    float *sums, *greatest, *total;
    alignas(64) float scores[kRows][kKeys];
    alignas(64) uint32_t weights[kRows][kKeys];

    void reserve(int64_t rows, int64_t dim) {
        if (rows <= max_rows && dim <= head_dim) return;
        max_rows = std::max(rows, max_rows), head_dim = std::max(dim, head_dim);
        const int64_t block = max_rows * head_dim, tile = kKeys * head_dim;
        memory.reset(new uint32_t[2 * block + 2 * tile + 2 * max_rows + 16]());
        keys = reinterpret_cast<uint32_t*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
        values = keys + tile;
        query = values + tile;
        sums = reinterpret_cast<float*>(query + block);
        greatest = sums + block;
        total = greatest + max_rows;
    }
};

inline Scratch& thread_scratch() {
    static thread_local Scratch scratch;
    return scratch;
}

// c[r][v] = c[r][v] * factor[r] + sum over steps of a[r][step] . b[step][v], for R rows of V vectors. Units in a and
// b; a null factor stands for nothing there before.
template <class Math, int V>
inline void multiply_tile(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t steps,
                          float* c, int64_t c_stride, const float* factor) {
    Vec sums[kRows][V];
    for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < V; ++v)
            sums[r][v] = factor ? mul(load(c + r * c_stride + v * LANES), broadcast(factor[r])) : zero();
    for (int64_t step = 0; step < steps; ++step) {
        Vec right[V];
        for (int v = 0; v < V; ++v)
            right[v] = load(reinterpret_cast<const float*>(b + step * b_stride) + v * LANES);
        for (int r = 0; r < kRows; ++r) {
            const Vec left = broadcast_unit(a + r * a_stride + step);
            for (int v = 0; v < V; ++v) sums[r][v] = Math::dot(sums[r][v], right[v], left);
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < V; ++v) store(c + r * c_stride + v * LANES, sums[r][v]);
}

// The same for any number of vectors.
template <class Math>
inline void multiply(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t steps, float* c,
                     int64_t c_stride, const float* factor, int64_t num_vecs) {
    int64_t v = 0;
    for (; v + kRegisterVecs <= num_vecs; v += kRegisterVecs)
        multiply_tile<Math, kRegisterVecs>(a, a_stride, b + v * LANES, b_stride, steps, c + v * LANES, c_stride,
                                           factor);
    b += v * LANES, c += v * LANES;
    switch (num_vecs - v) {
        case 3: return multiply_tile<Math, 3>(a, a_stride, b, b_stride, steps, c, c_stride, factor);
        case 2: return multiply_tile<Math, 2>(a, a_stride, b, b_stride, steps, c, c_stride, factor);
        case 1: return multiply_tile<Math, 1>(a, a_stride, b, b_stride, steps, c, c_stride, factor);
    }
}

// 8 x 8 units: column i of `from` becomes row i of `to`.
inline void transpose(const uint32_t* const* from, int64_t at, uint32_t* to, int64_t to_stride) {
    __m256 r[8], s[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(from[i] + at));
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
        float* low = reinterpret_cast<float*>(to + i * to_stride);
        float* high = reinterpret_cast<float*>(to + (i + 4) * to_stride);
        _mm256_storeu_ps(low, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(high, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

// A query's or key's elements as units, at `to` or, where they are units already, where they lie.
template <class Math>
inline const uint32_t* as_units(const typename Math::Cache* from, int64_t head_dim, uint32_t* to) {
    if (sizeof(typename Math::Cache) * Math::kPerUnit == 4) return reinterpret_cast<const uint32_t*>(from);
    for (int64_t d = 0; d < head_dim; d += LANES) store(reinterpret_cast<float*>(to) + d, load(from + d));
    return to;
}

// Makes room for query rows that have seen nothing yet. Returns their number, padded with zeros to
// whole register tiles.
template <class Math>
inline int64_t begin_rows(Scratch& scratch, int64_t num_rows, int64_t head_dim) {
    const int64_t padded_rows = (num_rows + kRows - 1) / kRows * kRows, units = head_dim / Math::kPerUnit;
    scratch.reserve(padded_rows, head_dim);
    std::fill(scratch.query + num_rows * units, scratch.query + padded_rows * units, 0);
    std::fill_n(scratch.sums, padded_rows * head_dim, 0.0f);
    std::fill_n(scratch.greatest, padded_rows, -FLT_MAX);
    std::fill_n(scratch.total, padded_rows, 0.0f);
    return padded_rows;
}

// A token's queries for the heads of a kv head, as query rows from `row` on.
template <class Math>
inline void take_queries(Scratch& scratch, const Plan& plan, const Call& call, int64_t token, int64_t kv_head,
                         int64_t row) {
    const int64_t heads_per_kv = plan.num_heads / plan.num_kv_heads, units = plan.head_dim / Math::kPerUnit;
    const auto* q = static_cast<const typename Math::Cache*>(call.q) + token * call.q_stride;
    for (int64_t h = 0; h < heads_per_kv; ++h) {
        uint32_t* to = scratch.query + (row + h) * units;
        const uint32_t* from = as_units<Math>(q + (kv_head * heads_per_kv + h) * plan.head_dim, plan.head_dim, to);
        if (from != to) std::memcpy(to, from, units * sizeof(uint32_t));
    }
}

// Keys as [head_dim in units, kKeys]; zeros past the last.
template <class Math>
inline void lay_out_keys(const typename Math::Cache* cache, const int64_t* offsets, int64_t num_keys, int64_t head_dim,
                         uint32_t* keys) {
    alignas(64) static thread_local uint32_t converted[8][kMaxHeadDim];
    alignas(64) static const uint32_t zeros[kMaxHeadDim] = {};
    for (int64_t key = 0; key < kKeys; key += 8) {
        const uint32_t* from[8];
        for (int64_t i = 0; i < 8; ++i)
            from[i] = key + i < num_keys ? as_units<Math>(cache + offsets[key + i], head_dim, converted[i]) : zeros;
        for (int64_t at = 0; at < head_dim / Math::kPerUnit; at += 8)
            transpose(from, at, keys + at * kKeys + key, kKeys);
    }
}

// Values as [kKeys in units, head_dim]; zeros past the last.
template <class Math>
inline void lay_out_values(const typename Math::Cache* cache, const int64_t* offsets, int64_t num_keys,
                           int64_t head_dim, uint32_t* values) {
    alignas(64) static const typename Math::Cache zeros[kMaxHeadDim] = {};
    for (int64_t key = 0; key < kKeys; key += Math::kPerUnit) {
        const typename Math::Cache* tokens[Math::kPerUnit];
        for (int t = 0; t < Math::kPerUnit; ++t) tokens[t] = key + t < num_keys ? cache + offsets[key + t] : zeros;
        for (int64_t d = 0; d < head_dim; d += LANES)
            store(reinterpret_cast<float*>(values) + d, Math::value_unit(tokens, d));
        values += head_dim;
    }
}

// Tokens [begin, end) of a row, at most kKeys.
template <class Math>
inline void lay_out(Scratch& scratch, const Plan& plan, const Call& call, const RowTokens& tokens, int64_t begin,
                    int64_t end) {
    using T = typename Math::Cache;
    int64_t offsets[kKeys];
    tokens.offsets(begin, end, offsets);
    lay_out_keys<Math>(static_cast<const T*>(call.key_cache), offsets, end - begin, plan.head_dim, scratch.keys);
    lay_out_values<Math>(static_cast<const T*>(call.value_cache), offsets, end - begin, plan.head_dim, scratch.values);
}

// Fetches the next tile's tokens ahead of their use, [begin, end) of which the first kKeys count, a share of them in
// each of `num_steps` steps: as many fetches at once would wait for each other.
template <class Math>
inline void fetch_share(const Plan& plan, const Call& call, const RowTokens& tokens, int64_t begin, int64_t end,
                        int64_t step, int64_t num_steps) {
    using T = typename Math::Cache;
    const int64_t first = begin + kKeys * step / num_steps, last = begin + kKeys * (step + 1) / num_steps;
    if (first >= end) return;
    int64_t offsets[kKeys];
    tokens.offsets(first, std::min(last, end), offsets);
    for (int64_t i = 0; i < std::min(last, end) - first; ++i) {
        prefetch_row(static_cast<const T*>(call.key_cache) + offsets[i], plan.head_dim);
        prefetch_row(static_cast<const T*>(call.value_cache) + offsets[i], plan.head_dim);
    }
}

// Six query rows of a tile, and what they have seen so far.
struct Rows {
    int64_t first_position[kRows], end_position[kRows];  // of the keys each sees
};

// The scores of one query row become weights; what it summed before is to be multiplied by the result.
template <class Math>
inline float soften(float* scores, int64_t padded, float exponent, float& greatest_score, float& total_weight,
                    uint32_t* weights) {
    Vec most = load(scores);
    for (int64_t i = LANES; i < padded; i += LANES) most = max(most, load(scores + i));
    const float now = std::max(greatest_score, max_of_lanes(most));
    for (int64_t i = 0; i < padded; i += LANES)
        store(scores + i, exp2(mul(sub(load(scores + i), broadcast(now)), broadcast(exponent))));
    const float factor = exp2((greatest_score - now) * exponent);
    greatest_score = now;
    total_weight = total_weight * factor + Math::round_weights(scores, padded, weights);
    return factor;
}

// Keys [begin, end) laid out in scratch, against the query rows from `row` on.
template <class Math>
inline void attend(Scratch& scratch, const Rows& rows, int64_t row, int64_t begin, int64_t end, int64_t head_dim,
                   float exponent) {
    const int64_t last = *std::max_element(rows.end_position, rows.end_position + kRows);
    const int64_t first = *std::min_element(rows.first_position, rows.first_position + kRows);
    if (last <= begin || first >= end) return;
    const int64_t padded = (std::min(last, end) - begin + 2 * LANES - 1) / (2 * LANES) * (2 * LANES);
    const int64_t units = head_dim / Math::kPerUnit;
    multiply<Math>(scratch.query + row * units, units, scratch.keys, kKeys, units, scratch.scores[0], kKeys, nullptr,
                   padded / LANES);
    float factor[kRows];
    for (int r = 0; r < kRows; ++r) {
        float* scores = scratch.scores[r];
        const int64_t seen_from = rows.first_position[r] - begin, seen_to = rows.end_position[r] - begin;
        for (int64_t i = 0; i < std::min(seen_from, padded); ++i) scores[i] = -INFINITY;
        for (int64_t i = std::max<int64_t>(seen_to, 0); i < padded; ++i) scores[i] = -INFINITY;
        factor[r] = soften<Math>(scores, padded, exponent, scratch.greatest[row + r], scratch.total[row + r],
                                 scratch.weights[r]);
    }
    multiply<Math>(scratch.weights[0], kKeys, scratch.values, head_dim, padded / Math::kPerUnit,
                   scratch.sums + row * head_dim, head_dim, factor, head_dim / LANES);
}

}  // namespace quire::attention
