// One query token against a part of its row's context, for all query heads of a kv head: each key and value is read
// once, where it lies. A part's scores fit in the first cache, so that the softmax within it is a plain one.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "attention.h"
#include "attention_partials.h"
#include "attention_simd.h"

namespace quire::attention {
namespace {

constexpr int64_t kGroup = 8;    // query heads at once; more read the keys and values again, from the cache
constexpr int64_t kKeys = 4;     // keys of a dot product's register tile
constexpr int64_t kValues = 32;  // value rows that are gone through at once, for all query heads
constexpr int64_t kAhead = 64;   // tokens that are fetched before they are needed

template <class Math>
struct Scratch {
    alignas(64) typename Math::Query query[kGroup][kMaxHeadDim];
    alignas(64) float scores[kGroup][kMaxPart];
    alignas(64) uint32_t weights[kGroup][kMaxPart];  // in units
    alignas(64) float sums[kGroup][kMaxHeadDim];
    float greatest[kGroup], total[kGroup];
    int64_t offsets[kMaxPart];
};

// Dot products of kKeys keys with the queries head .. head + H, into their scores at `at`.
template <class Math, int H>
inline void score_keys(const typename Math::Cache* const* keys, int64_t head_dim, int64_t head, int64_t at,
                       Scratch<Math>& scratch) {
    Vec sums[H][kKeys];
    for (int h = 0; h < H; ++h)
        for (int k = 0; k < kKeys; ++k) sums[h][k] = zero();
    for (int64_t d = 0; d < head_dim; d += Math::kChunk) {
        Vec key[kKeys];
        for (int k = 0; k < kKeys; ++k) key[k] = Math::load_key(keys[k] + d, head_dim - d);
        for (int h = 0; h < H; ++h) {
            const Vec query = Math::load_query(scratch.query[head + h] + d);
            for (int k = 0; k < kKeys; ++k) sums[h][k] = Math::dot(sums[h][k], key[k], query);
        }
    }
    for (int h = 0; h < H; ++h)
        _mm_storeu_ps(scratch.scores[head + h] + at, sums_of_lanes(sums[h][0], sums[h][1], sums[h][2], sums[h][3]));
}

// sums[head .. head + H][d .. d + V vectors] += weights . values, over units [begin, end).
template <class Math, int H, int V>
inline void add_values(const typename Math::Cache* cache, int64_t d, int64_t head, int64_t begin, int64_t end,
                       Scratch<Math>& scratch) {
    Vec sums[H][V];
    for (int h = 0; h < H; ++h)
        for (int v = 0; v < V; ++v) sums[h][v] = load(scratch.sums[head + h] + d + v * LANES);
    for (int64_t unit = begin; unit < end; ++unit) {
        const typename Math::Cache* tokens[Math::kPerUnit];
        for (int t = 0; t < Math::kPerUnit; ++t) tokens[t] = cache + scratch.offsets[unit * Math::kPerUnit + t];
        Vec values[V];
        for (int v = 0; v < V; ++v) values[v] = Math::value_unit(tokens, d + v * LANES);
        for (int h = 0; h < H; ++h) {
            const Vec weight = broadcast_unit(scratch.weights[head + h] + unit);
            for (int v = 0; v < V; ++v) sums[h][v] = Math::dot(sums[h][v], values[v], weight);
        }
    }
    for (int h = 0; h < H; ++h)
        for (int v = 0; v < V; ++v) store(scratch.sums[head + h] + d + v * LANES, sums[h][v]);
}

template <class Math, int H>
inline void add_values_of_heads(const typename Math::Cache* cache, int64_t head_dim, int64_t head, int64_t begin,
                                int64_t end, Scratch<Math>& scratch) {
    int64_t d = 0;
    for (; d + kRegisterVecs * LANES <= head_dim; d += kRegisterVecs * LANES)
        add_values<Math, H, kRegisterVecs>(cache, d, head, begin, end, scratch);
    for (; d < head_dim; d += LANES) add_values<Math, H, 1>(cache, d, head, begin, end, scratch);
}

// body(std::integral_constant H, head) for heads [0, num_heads), as many at a time as registers hold.
template <class Body>
inline void for_heads(int64_t num_heads, Body body) {
    int64_t head = 0;
    for (; head + kRegisterHeads <= num_heads; head += kRegisterHeads)
        body(std::integral_constant<int, kRegisterHeads>(), head);
    if (kRegisterHeads > 2 && head + 2 <= num_heads) {
        body(std::integral_constant<int, 2>(), head);
        head += 2;
    }
    if (head < num_heads) body(std::integral_constant<int, 1>(), head);
}

template <class Math>
void score(const typename Math::Cache* cache, const typename Math::Cache* values, int64_t head_dim, int64_t num_heads,
           int64_t num_keys, Scratch<Math>& scratch) {
    for (int64_t next = 0; next < std::min(num_keys, kAhead); ++next)
        prefetch_row(cache + scratch.offsets[next], head_dim);
    for (int64_t next = 0; next < std::min(num_keys, kAhead - num_keys); ++next)
        prefetch_row(values + scratch.offsets[next], head_dim);
    const int64_t num_values = std::min(num_keys, kAhead);
    for (int64_t at = 0; at < num_keys; at += kKeys) {
        const typename Math::Cache* keys[kKeys];
        for (int k = 0; k < kKeys; ++k) {
            keys[k] = cache + scratch.offsets[at + k];
            const int64_t next = at + k + kAhead;
            if (next < num_keys)
                prefetch_row(cache + scratch.offsets[next], head_dim);
            else if (next - num_keys < num_values)
                prefetch_row(values + scratch.offsets[next - num_keys], head_dim);
        }
        for_heads(num_heads, [&](auto count, int64_t head) {
            score_keys<Math, decltype(count)::value>(keys, head_dim, head, at, scratch);
        });
    }
}

// Scores become weights 2^((score - greatest) * exponent), 0 past num_keys.
template <class Math>
void softmax(int64_t head, int64_t num_keys, float exponent, Scratch<Math>& scratch) {
    float* scores = scratch.scores[head];
    const int64_t padded = (num_keys + 2 * LANES - 1) / (2 * LANES) * (2 * LANES);
    for (int64_t i = num_keys; i < padded; ++i) scores[i] = -INFINITY;
    Vec most = load(scores);
    for (int64_t i = LANES; i < padded; i += LANES) most = max(most, load(scores + i));
    const float greatest_score = max_of_lanes(most);
    for (int64_t i = 0; i < padded; i += LANES) {
        const Vec below = sub(load(scores + i), broadcast(greatest_score));
        store(scores + i, exp2(mul(below, broadcast(exponent))));
    }
    scratch.greatest[head] = greatest_score;
    scratch.total[head] = Math::round_weights(scores, padded, scratch.weights[head]);
}

template <class Math>
void weigh(const typename Math::Cache* cache, int64_t head_dim, int64_t num_heads, int64_t num_keys,
           Scratch<Math>& scratch) {
    for (int64_t h = 0; h < num_heads; ++h) std::fill_n(scratch.sums[h], head_dim, 0.0f);
    for (int64_t begin = 0; begin < num_keys; begin += kValues) {
        const int64_t end = std::min(begin + kValues, num_keys);
        for (int64_t next = begin + kAhead; next < std::min(end + kAhead, num_keys); ++next)
            prefetch_row(cache + scratch.offsets[next], head_dim);
        const int64_t first = begin / Math::kPerUnit, last = (end + Math::kPerUnit - 1) / Math::kPerUnit;
        for_heads(num_heads, [&](auto count, int64_t head) {
            add_values_of_heads<Math, decltype(count)::value>(cache, head_dim, head, first, last, scratch);
        });
    }
}

template <class Math>
void decode(const Plan& plan, const Call& call, int64_t kv_head, const Part& part) {
    using T = typename Math::Cache;
    const T* key_cache = static_cast<const T*>(call.key_cache);
    const T* value_cache = static_cast<const T*>(call.value_cache);
    const int64_t token = plan.cu_q[part.row], head_dim = plan.head_dim;
    const int64_t heads_per_kv = plan.num_heads / plan.num_kv_heads, num_keys = part.end - part.begin;
    const int64_t first_head = kv_head * heads_per_kv;
    const float exponent = call.scale * kLog2E;
    const T* q = static_cast<const T*>(call.q) + token * call.q_stride;

    Scratch<Math> scratch;
    RowTokens(plan, part.row, kv_head).offsets(part.begin, part.end, scratch.offsets);
    for (int64_t i = num_keys; i % kKeys; ++i) scratch.offsets[i] = scratch.offsets[num_keys - 1];
    for (int64_t from = first_head; from < first_head + heads_per_kv; from += kGroup) {
        const int64_t num_heads = std::min(kGroup, first_head + heads_per_kv - from);
        const int64_t padded = (head_dim + 31) / 32 * 32;
        for (int64_t h = 0; h < num_heads; ++h)
            for (int64_t d = 0; d < padded; ++d)
                scratch.query[h][d] = d < head_dim ? Math::query(q[(from + h) * head_dim + d]) : typename Math::Query{};
        score(key_cache, value_cache, head_dim, num_heads, num_keys, scratch);
        for (int64_t h = 0; h < num_heads; ++h) softmax(h, num_keys, exponent, scratch);
        weigh(value_cache, head_dim, num_heads, num_keys, scratch);
        for (int64_t h = 0; h < num_heads; ++h)
            leave_result<T>(plan, call, part, from + h, scratch.sums[h], scratch.greatest[h], scratch.total[h]);
    }
    finish_part<T>(plan, call, part, kv_head);
}

}  // namespace

void decode_part(const Plan& plan, const Call& call, int64_t kv_head, const Part& part) {
    if (plan.is_bf16)
        decode<CachedBf16Math>(plan, call, kv_head, part);
    else
        decode<FloatMath<float>>(plan, call, kv_head, part);
}

}  // namespace quire::attention
