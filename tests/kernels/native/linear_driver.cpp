// Packs weights and multiplies rows that lie at the end of their memory, for the sanitizers to watch.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

extern "C" {
long quire_panel_columns();
void quire_pack_bf16(const uint16_t*, long, long, uint16_t*);
bool quire_rows_bf16(const uint16_t*, long, long, const int64_t*, long, uint16_t*);
void quire_linear_bf16(const void*, long, long, const void*, long, long, const void*, void*, bool);
void quire_pack_int8(const int8_t*, long, long, int8_t*, int32_t*);
bool quire_rows_int8(const int8_t*, const float*, long, long, const int64_t*, long, void*, bool);
void quire_linear_int8(const int8_t*, const float*, const int32_t*, long, long, const void*, bool, long, long,
                       const void*, void*, bool);
}

static float value(long i) { return static_cast<float>(i * 7919 % 13 - 6); }
static uint16_t bits(float number) {
    uint32_t wide;
    __builtin_memcpy(&wide, &number, 4);
    return static_cast<uint16_t>(wide >> 16);
}

// Small whole numbers: every sum is exact.
static bool is_right(long rows, long in_size, long out_size, long gap) {
    const long columns = quire_panel_columns(), panels = (out_size + columns - 1) / columns;
    const long size = panels * ((in_size + 1) / 2) * columns * 2, stride = in_size + gap;
    std::unique_ptr<uint16_t[]> weight(new uint16_t[out_size * in_size]), bias(new uint16_t[out_size]);
    std::unique_ptr<uint16_t[]> x(new uint16_t[(rows - 1) * stride + in_size]), row(new uint16_t[in_size]);
    std::unique_ptr<uint16_t, decltype(&std::free)> packed(
        static_cast<uint16_t*>(std::aligned_alloc(64, size * 2)), std::free);
    std::unique_ptr<float[]> out(new float[rows * out_size]);
    std::unique_ptr<uint16_t[]> narrow(new uint16_t[rows * out_size]);
    for (long i = 0; i < out_size * in_size; ++i) weight[i] = bits(value(i));
    for (long i = 0; i < (rows - 1) * stride + in_size; ++i) x[i] = bits(value(i + 5));
    for (long i = 0; i < out_size; ++i) bias[i] = bits(value(i + 9));
    quire_pack_bf16(weight.get(), out_size, in_size, packed.get());
    quire_linear_bf16(packed.get(), out_size, in_size, x.get(), stride, rows, bias.get(), out.get(), true);
    quire_linear_bf16(packed.get(), out_size, in_size, x.get(), stride, rows, nullptr, narrow.get(), false);
    for (long r = 0; r < rows; ++r)
        for (long o = 0; o < out_size; ++o) {
            float expected = value(o + 9);
            for (long i = 0; i < in_size; ++i) expected += value(r * stride + i + 5) * value(o * in_size + i);
            if (out[r * out_size + o] != expected) return false;
        }
    const int64_t last = out_size - 1, beyond = out_size;
    if (!quire_rows_bf16(packed.get(), out_size, in_size, &last, 1, row.get())) return false;
    for (long i = 0; i < in_size; ++i)
        if (row[i] != weight[last * in_size + i]) return false;
    return !quire_rows_bf16(packed.get(), out_size, in_size, &beyond, 1, row.get());
}

// Numbers that reach 127 in each row: quantising changes none, and scales are 1.
static bool is_right_int8(long rows, long in_size, long out_size, long gap) {
    const long columns = quire_panel_columns(), panels = (out_size + columns - 1) / columns;
    const long size = panels * ((in_size + 3) / 4) * columns * 4, stride = in_size + gap;
    std::unique_ptr<int8_t[]> weight(new int8_t[out_size * in_size]);
    std::unique_ptr<float[]> x(new float[(rows - 1) * stride + in_size]), bias(new float[out_size]);
    std::unique_ptr<int8_t, decltype(&std::free)> packed(static_cast<int8_t*>(std::aligned_alloc(64, size)), std::free);
    std::unique_ptr<float[]> scales(new float[panels * columns]), out(new float[rows * out_size]);
    std::unique_ptr<float[]> row(new float[in_size]);
    std::unique_ptr<int32_t[]> sums(new int32_t[panels * columns]);
    for (long i = 0; i < out_size * in_size; ++i) weight[i] = static_cast<int8_t>(value(i) * 20);
    for (long i = 0; i < (rows - 1) * stride + in_size; ++i) x[i] = value(i + 5);
    for (long r = 0; r < rows; ++r) x[r * stride] = -127;
    for (long i = 0; i < out_size; ++i) bias[i] = value(i + 9);
    for (long i = 0; i < panels * columns; ++i) scales[i] = 1;
    quire_pack_int8(weight.get(), out_size, in_size, packed.get(), sums.get());
    quire_linear_int8(packed.get(), scales.get(), sums.get(), out_size, in_size, x.get(), true, stride, rows,
                      bias.get(), out.get(), true);
    for (long r = 0; r < rows; ++r)
        for (long o = 0; o < out_size; ++o) {
            float expected = value(o + 9);
            for (long i = 0; i < in_size; ++i) expected += x[r * stride + i] * weight[o * in_size + i];
            if (out[r * out_size + o] != expected) return false;
        }
    const int64_t last = out_size - 1, beyond = out_size;
    if (!quire_rows_int8(packed.get(), scales.get(), out_size, in_size, &last, 1, row.get(), true)) return false;
    for (long i = 0; i < in_size; ++i)
        if (row[i] != weight[last * in_size + i]) return false;
    return !quire_rows_int8(packed.get(), scales.get(), out_size, in_size, &beyond, 1, row.get(), true);
}

int main() {
    const long rows[] = {1, 2, 5, 11, 12, 13, 30}, sizes[] = {1, 2, 31, 64, 65}, inputs[] = {1, 2, 3, 32, 67};
    for (long count : rows)
        for (long out_size : sizes)
            for (long in_size : inputs)
                for (long gap = 0; gap < 4; gap += 3)
                    if (!is_right(count, in_size, out_size, gap) || !is_right_int8(count, in_size, out_size, gap)) {
                        std::fprintf(stderr, "%ld rows of %ld, %ld outputs\n", count, in_size, out_size);
                        return 1;
                    }
    // More than one block of rows and of inputs.
    return is_right(200, 2500, 33, 0) && is_right_int8(200, 4500, 33, 0) ? 0 : 1;
}
