// Sixteen numbers at a time, and rows of logits seen in groups of sixty-four, for the sampling sources. Written with the
// compiler's own vector types, so that every instruction set gets the same steps.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace quire::sampling {

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));

constexpr long kLanes = 16;
constexpr long kGroup = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline Lanes load(const float* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline Lanes filled(float value) { return Lanes{} + value; }

// NaN where `next` is NaN, so that it is lost only to a later number.
inline Lanes larger(Lanes best, Lanes next) { return best > next ? best : next; }

inline float largest(Lanes lanes) {
    float best = lanes[0];
    for (int lane = 1; lane < kLanes; ++lane) best = lanes[lane] > best ? lanes[lane] : best;
    return best;
}

inline float sum(Lanes lanes) {
    float total = 0;
    for (int lane = 0; lane < kLanes; ++lane) total += lanes[lane];
    return total;
}

// exp(-depth) of depth >= 0 to 2 units in the last place; 0 from 87 on, and of infinity and NaN. Cephes' polynomial.
inline Lanes exp_of_minus(Lanes depth) {
    const Lanes clamped = depth < 87.0f ? depth : filled(87.0f);
    const Lanes shifted = clamped * -1.44269504088896341f + 12582912.0f;
    const Lanes whole = shifted - 12582912.0f;
    Lanes part = -clamped - whole * 0.693359375f;
    part = part - whole * -2.12194440e-4f;
    Lanes value = part * 1.9875691500e-4f + 1.3981999507e-3f;
    value = value * part + 8.3334519073e-3f;
    value = value * part + 4.1665795894e-2f;
    value = value * part + 1.6666665459e-1f;
    value = value * part + 5.0000001201e-1f;
    value = value * part * part + part + 1.0f;
    const IntLanes power = (IntLanes)shifted << 23;
    const Lanes scaled = (Lanes)((IntLanes)value + power);
    return depth < 87.0f ? scaled : filled(0.0f);
}

// One group of a row, filled up with minus infinity at the row's end.
struct Group {
    const float* values;
    float copy[kGroup];

    Group(const float* row, long size, long begin) : values(row + begin) {
        const long count = size - begin;
        if (count >= kGroup) return;
        std::memcpy(copy, values, sizeof(float) * count);
        for (long place = count; place < kGroup; ++place) copy[place] = -kInfinity;
        values = copy;
    }
    Group(const Group&) = delete;

    float maximum() const {
        const Lanes low = larger(load(values), load(values + kLanes));
        return largest(larger(low, larger(load(values + 2 * kLanes), load(values + 3 * kLanes))));
    }
};

inline long num_groups(long size) { return (size + kGroup - 1) / kGroup; }

// A token's place in its row's order as one number: smaller is likelier, the lower id among equals.
typedef uint64_t Key;

inline Key key_of(float value, long id) {
    int32_t bits;
    const float plain = value + 0.0f;  // -0 and 0 are equal
    std::memcpy(&bits, &plain, sizeof bits);
    const uint32_t rising = static_cast<uint32_t>(bits) ^ (bits < 0 ? 0xffffffffu : 0x80000000u);
    return static_cast<Key>(~rising) << 32 | static_cast<uint32_t>(id);
}

inline long id_of(Key key) { return static_cast<uint32_t>(key); }

inline float value_of(Key key) {
    const uint32_t rising = ~static_cast<uint32_t>(key >> 32);
    const uint32_t bits = rising & 0x80000000u ? rising ^ 0x80000000u : ~rising;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace quire::sampling
