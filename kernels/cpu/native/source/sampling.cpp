// Greedy tokens, finite rows, and logprobs of rows of logits: each one pass over the row, as fast as memory gives it.
#include <algorithm>
#include <vector>

#include "parallel.h"
#include "sampling_lanes.h"

namespace quire::sampling {
namespace {

constexpr long kStretch = 16 * kGroup;  // of which the greedy pass keeps only the maximum

float maximum_of(const float* values, long count) {
    Lanes best[4] = {filled(-kInfinity), filled(-kInfinity), filled(-kInfinity), filled(-kInfinity)};
    long place = 0;
    for (; place + kGroup <= count; place += kGroup)
        for (int part = 0; part < 4; ++part) best[part] = larger(best[part], load(values + place + part * kLanes));
    float maximum = largest(larger(larger(best[0], best[1]), larger(best[2], best[3])));
    for (; place < count; ++place) maximum = values[place] > maximum ? values[place] : maximum;
    return maximum;
}

long greedy_of(const float* row, long size) {
    float best = -kInfinity;
    long begin = 0;
    for (long place = 0; place < size; place += kStretch) {
        const float maximum = maximum_of(row + place, std::min(kStretch, size - place));
        if (maximum > best) best = maximum, begin = place;
    }
    for (long place = begin; place < size; ++place)
        if (row[place] == best) return place;
    return 0;
}

bool is_finite(const float* row, long size) {
    // A number times zero is zero, but not of NaN and infinity.
    Lanes zeros[4] = {};
    long place = 0;
    for (; place + kGroup <= size; place += kGroup)
        for (int part = 0; part < 4; ++part) zeros[part] += load(row + place + part * kLanes) * 0.0f;
    float zero = sum(zeros[0] + zeros[1] + zeros[2] + zeros[3]);
    for (; place < size; ++place) zero += row[place] * 0.0f;
    return zero == 0.0f;
}

// Maxima [groups] of the row's groups; returns the row's.
float group_maxima(const float* row, long size, std::vector<float>& maxima) {
    maxima.resize(num_groups(size));
    float best = -kInfinity;
    for (size_t group = 0; group < maxima.size(); ++group) {
        maxima[group] = Group(row, size, group * kGroup).maximum();
        best = std::max(best, maxima[group]);
    }
    return best;
}

double log_total(const float* row, long size, float maximum) {
    double total = 0;
    for (long begin = 0; begin < size; begin += kGroup) {
        const Group group(row, size, begin);
        Lanes masses = {};
        for (int part = 0; part < 4; ++part) masses += exp_of_minus(maximum - load(group.values + part * kLanes));
        total += sum(masses);
    }
    return maximum + std::log(total);
}

long num_above(const float* row, long size, float value) {
    long count = 0;
    for (long begin = 0; begin < size; begin += 1L << 20) {
        const long end = std::min(size, begin + (1L << 20));
        int32_t above = 0;
        for (long place = begin; place < end; ++place) above += row[place] > value;
        count += above;
    }
    return count;
}

}  // namespace

// The `count` likeliest tokens of a row in order (all, if there are fewer): they are no less than the `count`-th largest
// of the groups' maxima, so that few numbers are looked at twice.
void likeliest(const float* row, long size, const std::vector<float>& maxima, long count, std::vector<Key>& keys) {
    float least = -kInfinity;
    if (count < static_cast<long>(maxima.size())) {
        static thread_local std::vector<float> sorted;
        sorted = maxima;
        std::nth_element(sorted.begin(), sorted.begin() + count - 1, sorted.end(), std::greater<float>());
        least = sorted[count - 1];
    }
    keys.clear();
    for (size_t group = 0; group < maxima.size(); ++group) {
        if (!(maxima[group] >= least)) continue;
        const long end = std::min<long>(size, (group + 1) * kGroup);
        for (long id = group * kGroup; id < end; ++id)
            if (row[id] >= least) keys.push_back(key_of(row[id], id));
    }
    if (count < static_cast<long>(keys.size())) {
        std::nth_element(keys.begin(), keys.begin() + count, keys.end());
        keys.resize(count);
    }
    std::sort(keys.begin(), keys.end());
}

}  // namespace quire::sampling

using namespace quire::sampling;

// logits [count, size], rows `stride` numbers apart; token_ids int64 [count].
QUIRE_EXPORT void quire_greedy(const float* logits, long stride, long count, long size, int64_t* token_ids) {
    quire::parallel_chunks(count, [&](long row) { token_ids[row] = greedy_of(logits + row * stride, size); });
}

// found: one byte a row, 1 where all is finite.
QUIRE_EXPORT void quire_rows_are_finite(const float* logits, long stride, long count, long size, uint8_t* found) {
    quire::parallel_chunks(count, [&](long row) { found[row] = is_finite(logits + row * stride, size); });
}

// logprobs float32 [count], ranks int64 [count], top_ids int64 and top float32 [count, num_top]; num_top <= size.
QUIRE_EXPORT void quire_token_logprobs(const float* logits, long stride, long count, long size,
                                       const int64_t* token_ids, long num_top, float* logprobs, int64_t* ranks,
                                       int64_t* top_ids, float* top) {
    quire::parallel_chunks(count, [&](long row) {
        static thread_local std::vector<float> maxima;
        static thread_local std::vector<Key> keys;
        const float* values = logits + row * stride;
        const float maximum = group_maxima(values, size, maxima);
        const double total = log_total(values, size, maximum);
        const float chosen = values[token_ids[row]];
        logprobs[row] = static_cast<float>(chosen - total);
        ranks[row] = num_above(values, size, chosen) + 1;
        if (!num_top) return;
        likeliest(values, size, maxima, num_top, keys);
        for (size_t place = 0; place < keys.size(); ++place) {
            top_ids[row * num_top + place] = id_of(keys[place]);
            top[row * num_top + place] = static_cast<float>(value_of(keys[place]) - total);
        }
    });
}
