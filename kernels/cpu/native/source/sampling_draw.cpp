// One token a row by inverse CDF over the row in order of likelihood, without sorting it: masses are summed up in buckets
// of depth below the likeliest, and only the bucket in which a cut or the draw falls is looked into, again by buckets.
#include <algorithm>
#include <vector>

#include "parallel.h"
#include "sampling_lanes.h"

namespace quire::sampling {

void likeliest(const float* row, long size, const std::vector<float>& maxima, long count, std::vector<Key>& keys);

namespace {

constexpr int kBuckets = 512;       // and one for all that is deeper
constexpr float kDeepest = 16.0f;   // nats that buckets span; what is deeper is e^-16 of the likeliest's mass, or less
constexpr long kFewTokens = 64;     // as many are sorted rather than put into buckets
constexpr float kLeastSpan = 1e-30f;  // of the logits of tokens that go into different buckets
constexpr int kCopies = 4;          // neighbours in one bucket need not wait for each other
constexpr long kFlushed = 64;       // groups, after which float sums go to a double

struct Parameters {
    float temperature;
    int64_t top_k;  // 0: all
    float top_p, min_p;
    double uniform;
};

// What is searched for: the first token at which the mass of all up to it reaches (or passes) `mass`.
struct Target {
    double mass;
    bool is_reached_by_equal;

    bool is_met(double cumulative) const { return is_reached_by_equal ? cumulative >= mass : cumulative > mass; }
};

struct Found {
    Key key;
    double cumulative;  // of all up to it and with it, in the mass of the row's likeliest token
};

struct Masses {
    double of[kBuckets + 1];

    double total() const {
        double sum = 0;
        for (double mass : of) sum += mass;
        return sum;
    }

    // The bucket in which the target lies; `before` becomes the mass of those before it. Rounding may put a target
    // behind all: then it is the last that is not empty.
    int bucket(const Target& target, double& before) const {
        double cumulative = 0;
        int last = 0;
        for (int place = 0; place <= kBuckets; ++place) {
            if (of[place] == 0) continue;
            last = place, before = cumulative;
            cumulative += of[place];
            if (target.is_met(cumulative)) break;
        }
        return last;
    }
};

// ---- tokens as a list of keys -------------------------------------------------------------------------------------

// Rounding may put a target behind all: then it is the last that has any mass.
Found find_in_sorted(const std::vector<Key>& keys, float maximum, const Target& target) {
    Found found{keys.front(), 0};
    for (Key key : keys) {
        const double mass = std::exp(static_cast<double>(value_of(key)) - maximum);
        if (mass > 0) found = {key, found.cumulative + mass};
        if (target.is_met(found.cumulative)) break;
    }
    return found;
}

double total_of(const std::vector<Key>& keys, float maximum) {
    double total = 0;
    for (Key key : keys) total += std::exp(static_cast<double>(value_of(key)) - maximum);
    return total;
}

// `keys`: any tokens, at least one; they are reordered and thrown away. Masses are those of `maximum`'s.
Found find_in_keys(std::vector<Key>& keys, float maximum, Target target) {
    double before_all = 0;
    for (;;) {
        const auto [likeliest, unlikeliest] = std::minmax_element(keys.begin(), keys.end());
        const float high = value_of(*likeliest), low = value_of(*unlikeliest);
        if (static_cast<long>(keys.size()) <= kFewTokens || !(high - low > kLeastSpan)) break;
        const float scale = kBuckets / std::min(kDeepest, high - low);
        const auto bucket_of = [&](Key key) {
            const float place = (high - value_of(key)) * scale;
            return place < kBuckets ? static_cast<int>(place) : kBuckets;
        };
        Masses masses = {};
        for (Key key : keys) masses.of[bucket_of(key)] += std::exp(static_cast<double>(value_of(key)) - maximum);
        double before = 0;
        const int bucket = masses.bucket(target, before);
        const auto is_elsewhere = [&](Key key) { return bucket_of(key) != bucket; };
        keys.erase(std::remove_if(keys.begin(), keys.end(), is_elsewhere), keys.end());
        before_all += before;
        target.mass -= before;
    }
    std::sort(keys.begin(), keys.end());
    Found found = find_in_sorted(keys, maximum, target);
    found.cumulative += before_all;
    return found;
}

// ---- a whole row --------------------------------------------------------------------------------------------------

struct Row {
    const float* values;  // divided by the temperature
    long size;
    const std::vector<float>& maxima;  // of its groups
    float maximum;
    float least;  // what is below has been cut off
};

Lanes buckets_of(Lanes depth) {
    const Lanes places = depth * (kBuckets / kDeepest);
    return places < static_cast<float>(kBuckets) ? places : filled(kBuckets);
}

void add_group(const Row& row, const Group& group, double (&masses)[kCopies][kBuckets + 1]) {
    float weights[kGroup];
    int32_t places[kGroup];
    for (long part = 0; part < kGroup; part += kLanes) {
        const Lanes values = load(group.values + part), depth = row.maximum - values;
        const Lanes weight = exp_of_minus(depth);
        store(weights + part, values >= row.least ? weight : filled(0.0f));
        const IntLanes place = __builtin_convertvector(buckets_of(depth), IntLanes);
        std::memcpy(places + part, &place, sizeof place);
    }
    for (long token = 0; token < kGroup; ++token) masses[token % kCopies][places[token]] += weights[token];
}

Masses masses_of(const Row& row) {
    double copies[kCopies][kBuckets + 1] = {};
    double deeper = 0;
    Lanes sums = {};
    const float live = row.maximum - kDeepest;
    for (size_t number = 0; number < row.maxima.size(); ++number) {
        if (row.maxima[number] >= row.least) {
            const Group group(row.values, row.size, number * kGroup);
            if (row.maxima[number] >= live) {
                add_group(row, group, copies);
            } else {
                for (long part = 0; part < kGroup; part += kLanes) {
                    const Lanes values = load(group.values + part), weight = exp_of_minus(row.maximum - values);
                    sums += values >= row.least ? weight : filled(0.0f);
                }
            }
        }
        if (number % kFlushed == kFlushed - 1) deeper += sum(sums), sums = Lanes{};
    }
    Masses masses;
    for (int place = 0; place <= kBuckets; ++place)
        masses.of[place] = copies[0][place] + copies[1][place] + copies[2][place] + copies[3][place];
    masses.of[kBuckets] += deeper + sum(sums);
    return masses;
}

// The tokens of a row that lie in a bucket and have any mass.
void collect(const Row& row, int bucket, std::vector<Key>& keys) {
    keys.clear();
    for (size_t number = 0; number < row.maxima.size(); ++number) {
        const float maximum = row.maxima[number];
        if (!(maximum >= row.least) || buckets_of(filled(row.maximum - maximum))[0] >= bucket + 1) continue;
        const Group group(row.values, row.size, number * kGroup);
        IntLanes is_there[4], any = {};
        for (int part = 0; part < 4; ++part) {
            const Lanes values = load(group.values + part * kLanes);
            const IntLanes place = __builtin_convertvector(buckets_of(row.maximum - values), IntLanes);
            is_there[part] = (place == bucket) & (values >= row.least) & (values > -kInfinity);
            any |= is_there[part];
        }
        int64_t words[8];
        std::memcpy(words, &any, sizeof words);
        if (!(words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7])) continue;
        for (long token = 0; token < kGroup; ++token)
            if (is_there[token / kLanes][token % kLanes])
                keys.push_back(key_of(group.values[token], number * kGroup + token));
    }
}

Found find_in_row(const Row& row, const Masses& masses, Target target, std::vector<Key>& keys) {
    double before = 0;
    collect(row, masses.bucket(target, before), keys);
    if (keys.empty()) return {key_of(row.maximum, 0), 0};  // of a row that has no likeliest token
    target.mass -= before;
    Found found = find_in_keys(keys, row.maximum, target);
    found.cumulative += before;
    return found;
}

// ---- the draw -----------------------------------------------------------------------------------------------------

// Divides a row; returns its maximum, and those of its groups in `maxima`.
float divide(float* row, long size, float temperature, std::vector<float>& maxima) {
    maxima.resize(num_groups(size));
    Lanes best = filled(-kInfinity);
    for (size_t number = 0; number < maxima.size(); ++number) {
        float* values = row + number * kGroup;
        if (static_cast<long>((number + 1) * kGroup) <= size) {
            for (long part = 0; part < kGroup; part += kLanes) store(values + part, load(values + part) / temperature);
        } else {
            for (; values < row + size; ++values) *values /= temperature;
        }
        maxima[number] = Group(row, size, number * kGroup).maximum();
        best = larger(best, filled(maxima[number]));
    }
    return largest(best);
}

// The least number whose mass is at least min_p of the maximum's, by bisection in the order of all numbers.
float least_kept(float maximum, float min_p) {
    if (!(min_p > 0)) return -kInfinity;
    constexpr Key kOne = Key{1} << 32;
    Key kept = key_of(maximum, 0), cut = key_of(-kInfinity, 0);
    while (cut - kept > kOne) {
        const Key middle = kept + (cut - kept) / kOne / 2 * kOne;
        (std::exp(static_cast<double>(value_of(middle)) - maximum) >= min_p ? kept : cut) = middle;
    }
    return value_of(kept);
}

// `find(target)` over the tokens that may be drawn, whose mass is `total`; top_p is what is left to do.
template <class Find>
long drawn(const Parameters& wanted, double total, Find find) {
    Key last = ~Key{0};
    if (wanted.top_p < 1) {
        const Found cut = find(Target{total * wanted.top_p, true});
        total = cut.cumulative, last = cut.key;
    }
    return id_of(std::min(last, find(Target{wanted.uniform * total, false}).key));
}

long draw(float* values, long size, const Parameters& wanted) {
    static thread_local std::vector<float> maxima;
    static thread_local std::vector<Key> keys, chosen;
    const float maximum = divide(values, size, wanted.temperature, maxima);
    if (!(std::fabs(maximum) < kInfinity)) return 0;
    const Row row{values, size, maxima, maximum, least_kept(maximum, wanted.min_p)};
    if (wanted.top_k <= 0 || wanted.top_k >= size) {
        const Masses masses = masses_of(row);
        return drawn(wanted, masses.total(), [&](Target target) { return find_in_row(row, masses, target, keys); });
    }
    likeliest(values, size, maxima, wanted.top_k, chosen);
    while (value_of(chosen.back()) < row.least) chosen.pop_back();
    return drawn(wanted, total_of(chosen, maximum), [&](Target target) {
        keys = chosen;
        return find_in_keys(keys, maximum, target);
    });
}

}  // namespace
}  // namespace quire::sampling

// Parameters [count] as in kernels.sample; logits [count, size], rows `stride` numbers apart, are overwritten.
QUIRE_EXPORT void quire_sample(float* logits, long stride, long count, long size, const float* temperature,
                               const int64_t* top_k, const float* top_p, const float* min_p, const double* uniforms,
                               int64_t* token_ids) {
    quire::parallel_chunks(count, [&](long row) {
        const quire::sampling::Parameters wanted{temperature[row], top_k[row], top_p[row], min_p[row], uniforms[row]};
        token_ids[row] = quire::sampling::draw(logits + row * stride, size, wanted);
    });
}
