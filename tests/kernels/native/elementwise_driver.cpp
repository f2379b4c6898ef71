// Calls the operations on rows with memory that ends where they end, for the sanitizers to watch.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>

#define QUIRE_DECLARED(NAME, T)                                                                                  \
    extern "C" void quire_rms_norm_##NAME(const T*, const T*, T*, long, long, float);                            \
    extern "C" void quire_add_rms_norm_##NAME(const T*, T*, const T*, T*, long, long, float);                    \
    extern "C" long quire_rope_and_cache_##NAME(const T*, const T*, const T*, float, const float*, const int*,   \
                                                const int*, T*, T*, T*, long, long, long, long, long, long, long); \
    extern "C" void quire_gated_activation_##NAME(const T*, T*, long, long, long);                               \
    struct NAME {                                                                                                \
        using Type = T;                                                                                          \
        static constexpr auto rms_norm = quire_rms_norm_##NAME;                                                  \
        static constexpr auto add_rms_norm = quire_add_rms_norm_##NAME;                                          \
        static constexpr auto rope_and_cache = quire_rope_and_cache_##NAME;                                      \
        static constexpr auto gated_activation = quire_gated_activation_##NAME;                                  \
    };

QUIRE_DECLARED(f32, float)
QUIRE_DECLARED(bf16, uint16_t)

template <class T>
std::unique_ptr<T[]> filled(long count) {
    std::unique_ptr<T[]> made(new T[count]);
    std::fill_n(made.get(), count, T(1));
    return made;
}

template <class Operations>
void rows(long num_rows, long size) {
    using T = typename Operations::Type;
    auto x = filled<T>(num_rows * size), residual = filled<T>(num_rows * size), out = filled<T>(num_rows * size);
    auto weight = filled<T>(size), pairs = filled<T>(num_rows * 2 * size);
    Operations::rms_norm(x.get(), weight.get(), out.get(), num_rows, size, 1e-6f);
    Operations::add_rms_norm(x.get(), residual.get(), weight.get(), out.get(), num_rows, size, 1e-6f);
    for (long activation : {0, 1, 2})
        Operations::gated_activation(pairs.get(), out.get(), num_rows, size, activation);
}

template <class Operations>
bool heads(long num_tokens, long head_dim, bool has_norms, int first_slot) {
    using T = typename Operations::Type;
    const long q_heads = 3, kv_heads = 2, block_size = 4, num_blocks = (num_tokens + 3) / 4, max_positions = num_tokens;
    auto qkv = filled<T>(num_tokens * (q_heads + 2 * kv_heads) * head_dim);
    auto q = filled<T>(num_tokens * q_heads * head_dim), norm = filled<T>(head_dim);
    auto keys = filled<T>(num_blocks * kv_heads * block_size * head_dim);
    auto values = filled<T>(num_blocks * kv_heads * block_size * head_dim);
    auto angles = filled<float>(max_positions * head_dim);
    auto positions = filled<int>(num_tokens), slots = filled<int>(num_tokens);
    for (long t = 0; t < num_tokens; ++t) positions[t] = int(t), slots[t] = int(t);
    slots[0] = first_slot;
    const T* given = has_norms ? norm.get() : nullptr;
    return Operations::rope_and_cache(qkv.get(), given, given, 1e-6f, angles.get(), positions.get(), slots.get(), q.get(),
                                      keys.get(), values.get(), num_tokens, q_heads, kv_heads, head_dim, block_size,
                                      num_blocks, max_positions);
}

template <class Operations>
bool all() {
    for (long num_rows : {0, 1, 3, 200})
        for (long size : {1, 2, 7, 15, 16, 17, 64, 100, 129, 1000}) rows<Operations>(num_rows, size);
    for (long num_tokens : {1, 5, 130})
        for (long head_dim : {16, 80, 128, 512})
            for (bool has_norms : {false, true}) {
                if (!heads<Operations>(num_tokens, head_dim, has_norms, 0)) return false;
                if (!heads<Operations>(num_tokens, head_dim, has_norms, -1)) return false;  // padding
                if (heads<Operations>(num_tokens, head_dim, has_norms, -2)) return false;
                if (heads<Operations>(num_tokens, head_dim, has_norms, 1 << 20)) return false;
            }
    return true;
}

int main() {
    if (all<f32>() && all<bf16>()) return 0;
    std::puts("a slot out of range was taken, or one in range was not");
    return 1;
}
