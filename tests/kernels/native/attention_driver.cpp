// Paged attention of odd shapes from arrays of exactly their size, for the sanitizers; prints "ok".
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "attention.h"

using namespace quire::attention;

extern "C" void quire_paged_attention(const Plan* plan, const void* q, long q_stride, const void* key_cache,
                                      const void* value_cache, void* out, float scale);

static float as_float(float x) { return x; }
static float as_float(uint16_t x) {
    union {
        uint32_t bits;
        float number;
    } both{uint32_t(x) << 16};
    return both.number;
}

// Three decode rows, of them one in three parts, and two rows of several tokens. All values are 1, and so must be all
// that comes out.
template <class T>
static bool run(int64_t head_dim, int64_t num_heads, int64_t num_kv_heads, int64_t block_size, int64_t window, T one) {
    const std::vector<int32_t> seq_lens{1, 600, 37, 70, 3}, cu_q{0, 1, 2, 3, 53, 56};
    int32_t width = int32_t((600 + block_size - 1) / block_size), next = 0;
    std::vector<int32_t> tables(5 * width, 0);
    for (size_t row = 0; row < seq_lens.size(); ++row)
        for (int32_t i = 0; i * block_size < seq_lens[row]; ++i) tables[row * width + i] = next++;
    std::vector<Part> parts{{0, 0, 1, 0, 0, 1}};
    const int32_t first = window ? 600 - int32_t(window) : 0, last = window ? 37 - int32_t(window) : 0;
    const int32_t num_parts = 3 - first / 256;
    for (int32_t p = 0; p < num_parts; ++p) {
        const int32_t begin = (first / 256 + p) * 256;
        parts.push_back({1, begin > first ? begin : first, begin + 256 < 600 ? begin + 256 : 600, 1 + p, 1, num_parts});
    }
    parts.push_back({2, last > 0 ? last : 0, 37, 1 + num_parts, 1 + num_parts, 1});
    const std::vector<Tile> tiles{{3, 25, 50}, {3, 0, 25}, {4, 0, 3}};
    std::vector<float> partials(parts.size() * num_heads * (head_dim + kPartialExtra));
    std::vector<int32_t> num_finished(3 * num_kv_heads);
    const int64_t head_stride = block_size * head_dim, block_stride = num_kv_heads * head_stride;
    std::vector<T> keys(next * block_stride, one), values(next * block_stride, one), q(56 * num_heads * head_dim, one),
        out(56 * num_heads * head_dim);
    const Plan plan{num_heads,     num_kv_heads, head_dim,
                    block_size,    block_stride, head_stride,
                    window,        sizeof(T) == 2,
                    tables.data(), width,        cu_q.data(),
                    seq_lens.data(), int64_t(parts.size()), parts.data(),
                    0,             nullptr,
                    int64_t(tiles.size()), tiles.data(), partials.data(), num_finished.data()};
    for (int layer = 0; layer < 2; ++layer)
        quire_paged_attention(&plan, q.data(), num_heads * head_dim, keys.data(), values.data(), out.data(), 0.1f);
    for (T x : out)
        if (!(std::fabs(as_float(x) - 1) < 1e-5f)) return false;
    return true;
}

// Rows of 300 tokens of which `num_sharing` have their first 256 in common, and one of 256 that has all of them so.
template <class T>
static bool run_shared(int64_t head_dim, int64_t num_heads, int64_t num_kv_heads, int64_t block_size,
                       int32_t num_sharing, T one) {
    const int32_t num_rows = num_sharing + 1, width = int32_t((300 + block_size - 1) / block_size);
    const int32_t num_common = int32_t((256 + block_size - 1) / block_size);
    std::vector<int32_t> seq_lens(num_rows, 300), cu_q, tables;
    seq_lens.back() = 256;
    std::vector<Part> parts, shared;
    for (int32_t row = 0, next = num_common; row < num_rows; ++row) {
        cu_q.push_back(row);
        for (int32_t i = 0; i < width; ++i)
            tables.push_back(i < num_common ? i : row < num_sharing ? next++ : 0);
        const int32_t num_parts = row < num_sharing ? 2 : 1;
        shared.push_back({row, 0, 256, 2 * row, 2 * row, num_parts});
        if (num_parts == 2) parts.push_back({row, 256, 300, 2 * row + 1, 2 * row, 2});
    }
    cu_q.push_back(num_rows);
    const std::vector<Group> groups{{num_sharing, num_sharing + 3}, {num_sharing + 3, num_sharing + num_rows}};
    parts.insert(parts.end(), shared.begin(), shared.end());
    std::vector<float> partials(parts.size() * num_heads * (head_dim + kPartialExtra));
    std::vector<int32_t> num_finished(num_rows * num_kv_heads);
    const int64_t head_stride = block_size * head_dim, block_stride = num_kv_heads * head_stride;
    const int64_t num_blocks = num_common + num_sharing * (width - num_common), size = num_rows * num_heads * head_dim;
    std::vector<T> keys(num_blocks * block_stride, one), values(num_blocks * block_stride, one), q(size, one),
        out(size);
    const Plan plan{num_heads,       num_kv_heads,      head_dim,    block_size,    block_stride,    head_stride, 0,
                    sizeof(T) == 2,  tables.data(),     width,       cu_q.data(),   seq_lens.data(), num_sharing,
                    parts.data(),    int64_t(groups.size()), groups.data(), 0,      nullptr,
                    partials.data(), num_finished.data()};
    for (int layer = 0; layer < 2; ++layer)
        quire_paged_attention(&plan, q.data(), num_heads * head_dim, keys.data(), values.data(), out.data(), 0.1f);
    for (T x : out)
        if (!(std::fabs(as_float(x) - 1) < 1e-5f)) return false;
    return true;
}

int main() {
    const int64_t heads[][2] = {{4, 2}, {3, 1}, {10, 1}, {2, 2}};
    for (int64_t head_dim : {16, 48, 80, 128, 512})
        for (const auto& pair : heads)
            for (int64_t block_size : {1, 7, 16})
                for (int64_t window : {0, 1, 40}) {
                    const bool is_right = run<float>(head_dim, pair[0], pair[1], block_size, window, 1.0f) &&
                                          run<uint16_t>(head_dim, pair[0], pair[1], block_size, window, 0x3f80);
                    const bool is_shared_right =
                        window || run_shared<uint16_t>(head_dim, pair[0], pair[1], block_size, 5, 0x3f80);
                    if (is_right && is_shared_right) continue;
                    std::printf("wrong: head_dim %ld, %ld heads, block size %ld, window %ld\n", head_dim, pair[0],
                                block_size, window);
                    return 1;
                }
    std::puts("ok");
}
