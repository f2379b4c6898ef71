// Calls the sampling functions on random rows that lie at the end of their memory, for the sanitizers to watch.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>

extern "C" {
void quire_greedy(const float*, long, long, long, int64_t*);
void quire_rows_are_finite(const float*, long, long, long, uint8_t*);
void quire_token_logprobs(const float*, long, long, long, const int64_t*, long, float*, int64_t*, int64_t*, float*);
void quire_sample(float*, long, long, long, const float*, const int64_t*, const float*, const float*, const double*,
                  int64_t*);
}

int main() {
    std::mt19937 chance(3);
    std::normal_distribution<float> normal;
    const long sizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 1000, 1025, 5001};
    const float scales[] = {0.0f, 1e-38f, 1e-3f, 1.0f, 20.0f, INFINITY};
    const int64_t top_ks[] = {0, 1, 5, 200, 5000};
    for (long size : sizes)
        for (float scale : scales) {
            const long count = 5, num_top = size < 20 ? size : 20;
            // Exactly as long as the rows: what is read beyond is an error.
            std::unique_ptr<float[]> logits(new float[count * size]);
            for (long i = 0; i < count * size; ++i) logits[i] = normal(chance) * scale;
            int64_t ids[5], ranks[5];
            uint8_t finite[5];
            float logprobs[5];
            std::unique_ptr<int64_t[]> top_ids(new int64_t[count * num_top]);
            std::unique_ptr<float[]> top(new float[count * num_top]);
            quire_rows_are_finite(logits.get(), size, count, size, finite);
            quire_greedy(logits.get(), size, count, size, ids);
            quire_token_logprobs(logits.get(), size, count, size, ids, num_top, logprobs, ranks, top_ids.get(), top.get());
            for (int64_t top_k : top_ks)
                for (float top_p : {1.0f, 0.7f, 1e-9f}) {
                    const int64_t k[5] = {top_k, top_k, top_k, 0, 3};
                    const float p[5] = {top_p, top_p, 1.0f, top_p, top_p}, least[5] = {0, 0.01f, 1.0f, 0, 1e-30f};
                    const float temperature[5] = {1, 0.5f, 3, 1, 1e-5f};
                    const double uniform[5] = {0, 0.3, 0.7, 0.99, 1 - 0x1p-53};
                    quire_sample(logits.get(), size, count, size, temperature, k, p, least, uniform, ids);
                    for (int64_t id : ids)
                        if (id < 0 || id >= size) return std::fprintf(stderr, "token %ld of %ld\n", long(id), size), 1;
                }
        }
    return 0;
}
