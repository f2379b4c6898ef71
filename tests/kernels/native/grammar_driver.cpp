// Masks rows that lie at the end of their memory, for the sanitizers to watch.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>

extern "C" void quire_keep_allowed(float*, long, long, const int64_t*, const uint32_t*, long, long);

int main() {
    std::mt19937 chance(5);
    for (long size : {1L, 2L, 15L, 16L, 17L, 31L, 32L, 33L, 64L, 1000L, 5001L, 70001L}) {
        const long count = 4, num_words = (size + 31) / 32;
        std::unique_ptr<float[]> logits(new float[count * size]);
        std::unique_ptr<uint32_t[]> bits(new uint32_t[3 * num_words]);
        for (long i = 0; i < count * size; ++i) logits[i] = 1.0f;
        for (long i = 0; i < 3 * num_words; ++i) bits[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? ~0u : uint32_t(chance());
        const int64_t rows[3] = {0, 2, 3};
        quire_keep_allowed(logits.get(), size, size, rows, bits.get(), num_words, 3);
        for (long row = 0; row < 3; ++row)
            for (long token = 0; token < size; ++token) {
                const bool is_allowed = bits[row * num_words + token / 32] >> (token % 32) & 1;
                if ((logits[rows[row] * size + token] == 1.0f) != is_allowed)
                    return std::fprintf(stderr, "token %ld of %ld\n", token, size), 1;
            }
    }
    return 0;
}
