// Operations on the rows of hidden states: norms, rotary embedding with the cache write, gated activations.
// They round where torch's do: numbers between the steps of an operation are float32, and what torch would
// hold in a tensor of the rows' type (a normed head, an activated gate) is rounded to it here too.
#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace quire {
namespace {

// body(i, count) for the `count` numbers from i on of n: whole vectors first, then the rest of one.
template <class Body>
inline void for_lanes(long n, Body body) {
    long i = 0;
    for (; i + LANES <= n; i += LANES) body(i, LANES);
    if (i < n) body(i, int(n - i));
}

template <class T>
inline Vec load_some(const T* p, int count) {
    return count == LANES ? load(p) : load(p, count);
}

template <class T>
inline void store_some(T* p, Vec v, int count) {
    count == LANES ? store(p, v) : store(p, v, count);
}

// What is left of v when it has been in memory as a T.
template <class T>
inline Vec rounded(Vec v);
template <>
inline Vec rounded<float>(Vec v) {
    return v;
}
template <>
inline Vec rounded<bf16>(Vec v) {
    return widen(narrow(v));
}

// ---- norms

struct Squares {
    Vec sums[4] = {zero(), zero(), zero(), zero()};

    inline void add_to(int which, Vec x) { sums[which] = fma(x, x, sums[which]); }
    inline float inverse_rms(long n, float epsilon) const {
        const float sum = sum_of_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
        return 1.0f / std::sqrt(sum / float(n) + epsilon);
    }
};

template <class T>
inline float inverse_rms(const T* x, long n, float epsilon) {
    Squares squares;
    long i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; ++j) squares.add_to(j, load(x + i + j * LANES));
    for_lanes(n - i, [&](long k, int count) { squares.add_to(0, load_some(x + i + k, count)); });
    return squares.inverse_rms(n, epsilon);
}

template <class T>
inline void scale_row(const T* x, const T* weight, float factor, T* out, long n) {
    const Vec factors = broadcast(factor);
    for_lanes(n, [&](long i, int count) {
        store_some(out + i, mul(mul(load_some(x + i, count), factors), load_some(weight + i, count)), count);
    });
}

template <class T>
void rms_norm(const T* x, const T* weight, T* out, long rows, long size, float epsilon) {
    parallel_rows(rows, 2 * size * sizeof(T), [=](long first, long last) {
        for (long row = first; row < last; ++row) {
            const T* from = x + row * size;
            scale_row(from, weight, inverse_rms(from, size, epsilon), out + row * size, size);
        }
    });
}

template <class T>
void add_rms_norm(const T* x, T* residual, const T* weight, T* out, long rows, long size, float epsilon) {
    parallel_rows(rows, 4 * size * sizeof(T), [=](long first, long last) {
        for (long row = first; row < last; ++row) {
            const T* added = x + row * size;
            T* sum = residual + row * size;
            for_lanes(size, [&](long i, int count) {
                store_some(sum + i, add(load_some(sum + i, count), load_some(added + i, count)), count);
            });
            scale_row(sum, weight, inverse_rms(sum, size, epsilon), out + row * size, size);
        }
    });
}

// ---- rotary embedding

constexpr long MAX_HEAD_DIM = 512;

template <class T>
struct Rotary {
    const T *qkv, *q_norm, *k_norm;
    float epsilon;
    const float* cos_sin;
    const int *positions, *slots;
    T *q, *keys, *values;
    long q_heads, kv_heads, head_dim, block_size;

    // One head, normed if there is a weight, turned by the token's angles.
    inline void turn(const T* head, const T* norm, const float* angles, T* out) const {
        T normed[MAX_HEAD_DIM];
        if (norm) {
            scale_row(head, norm, inverse_rms(head, head_dim, epsilon), normed, head_dim);
            head = normed;
        }
        const long half = head_dim / 2;
        for_lanes(half, [&](long i, int count) {
            const Vec cos = load_some(angles + i, count), sin = load_some(angles + half + i, count);
            const Vec first = load_some(head + i, count), second = load_some(head + half + i, count);
            store_some(out + i, sub(mul(first, cos), mul(second, sin)), count);
            store_some(out + half + i, add(mul(second, cos), mul(first, sin)), count);
        });
    }

    inline void token(long t) const {
        const T* head = qkv + t * (q_heads + 2 * kv_heads) * head_dim;
        const float* angles = cos_sin + positions[t] * head_dim;
        T* q_head = q + t * q_heads * head_dim;
        for (long h = 0; h < q_heads; ++h, head += head_dim) turn(head, q_norm, angles, q_head + h * head_dim);
        if (slots[t] < 0) return;  // padding
        const long slot = slots[t], stride = block_size * head_dim;
        const long offset = slot / block_size * kv_heads * stride + slot % block_size * head_dim;
        for (long h = 0; h < kv_heads; ++h, head += head_dim) turn(head, k_norm, angles, keys + offset + h * stride);
        for (long h = 0; h < kv_heads; ++h, head += head_dim)
            std::memcpy(values + offset + h * stride, head, head_dim * sizeof(T));
    }
};

// Writes nothing and returns false where a position or a slot is out of range.
template <class T>
bool rope_and_cache(const Rotary<T>& rotary, long tokens, long max_positions, long num_slots) {
    for (long t = 0; t < tokens; ++t) {
        if (rotary.positions[t] < 0 || rotary.positions[t] >= max_positions) return false;
        if (rotary.slots[t] < -1 || rotary.slots[t] >= num_slots) return false;
    }
    const long heads = rotary.q_heads + 2 * rotary.kv_heads;
    parallel_rows(tokens, 2 * heads * rotary.head_dim * sizeof(T), [&](long first, long last) {
        for (long t = first; t < last; ++t) rotary.token(t);
    });
    return true;
}

// ---- gated activations

struct Silu {
    static inline Vec of(Vec x) { return div(x, add(broadcast(1.0f), exp(sub(zero(), x)))); }
};

struct Gelu {
    // erfc(z) = t e^(-z^2) p(t) with t = 1 / (1 + 0.35 z), z >= 0: the form of Abramowitz and Stegun 7.1.26 with
    // coefficients fitted for the least greatest relative error, 7e-9.
    static inline Vec erfc(Vec z) {
        constexpr float COEFFICIENTS[] = {-0.158928521f, 0.181461754f, -0.0277063186f, 0.0870192789f, 0.146041926f,
                                          0.151186269f,  0.187902386f, 0.197138356f,   0.197483778f};
        const Vec t = div(broadcast(1.0f), fma(z, broadcast(0.35f), broadcast(1.0f)));
        Vec p = broadcast(0.0384010981f);
        for (float coefficient : COEFFICIENTS) p = fma(p, t, broadcast(coefficient));
        return mul(mul(p, t), exp(sub(zero(), mul(z, z))));
    }
    static inline Vec of(Vec x) {
        const Vec above = mul(broadcast(0.5f), erfc(mul(abs(x), broadcast(0.707106781f))));
        return mul(x, where_less(x, zero(), above, sub(broadcast(1.0f), above)));
    }
};

struct GeluTanh {
    // x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
    static inline Vec of(Vec x) {
        const Vec inner = mul(x, fma(mul(x, x), broadcast(0.044715f), broadcast(1.0f)));
        return div(x, add(broadcast(1.0f), exp(mul(inner, broadcast(-1.59576912f)))));
    }
};

template <class Activation, class T>
void gate(const T* x, T* out, long rows, long size) {
    parallel_rows(rows, 3 * size * sizeof(T), [=](long first, long last) {
        for (long row = first; row < last; ++row) {
            const T *gates = x + row * 2 * size, *ups = gates + size;
            T* to = out + row * size;
            for_lanes(size, [&](long i, int count) {
                const Vec activated = rounded<T>(Activation::of(load_some(gates + i, count)));
                store_some(to + i, mul(activated, load_some(ups + i, count)), count);
            });
        }
    });
}

template <class T>
void gated_activation(const T* x, T* out, long rows, long size, long activation) {
    if (activation == 0) gate<Silu>(x, out, rows, size);
    if (activation == 1) gate<Gelu>(x, out, rows, size);
    if (activation == 2) gate<GeluTanh>(x, out, rows, size);
}

}  // namespace
}  // namespace quire

using quire::bf16;

#define QUIRE_ELEMENTWISE(NAME, T)                                                                                    \
    QUIRE_EXPORT void quire_rms_norm_##NAME(const T* x, const T* weight, T* out, long rows, long size, float epsilon) { \
        quire::rms_norm(x, weight, out, rows, size, epsilon);                                                         \
    }                                                                                                                 \
    QUIRE_EXPORT void quire_add_rms_norm_##NAME(const T* x, T* residual, const T* weight, T* out, long rows,          \
                                                long size, float epsilon) {                                           \
        quire::add_rms_norm(x, residual, weight, out, rows, size, epsilon);                                           \
    }                                                                                                                 \
    QUIRE_EXPORT long quire_rope_and_cache_##NAME(const T* qkv, const T* q_norm, const T* k_norm, float epsilon,      \
                                                  const float* cos_sin, const int* positions, const int* slots, T* q, \
                                                  T* keys, T* values, long tokens, long q_heads, long kv_heads,       \
                                                  long head_dim, long block_size, long num_blocks, long positions_n) { \
        const quire::Rotary<T> rotary{qkv, q_norm, k_norm, epsilon, cos_sin,  positions, slots,                       \
                                      q,   keys,   values, q_heads, kv_heads, head_dim,  block_size};                 \
        return quire::rope_and_cache(rotary, tokens, positions_n, num_blocks * block_size);                           \
    }                                                                                                                 \
    QUIRE_EXPORT void quire_gated_activation_##NAME(const T* x, T* out, long rows, long size, long activation) {      \
        quire::gated_activation(x, out, rows, size, activation);                                                      \
    }

QUIRE_ELEMENTWISE(f32, float)
QUIRE_ELEMENTWISE(bf16, bf16)
