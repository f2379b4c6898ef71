// What the parts of the attention kernel share: the plan of a step (made in attention.py, same order of fields),
// one layer's call, and the kinds of chunks: a tile of a row's queries, a part of a decode row's context, a group of
// parts of several rows.
#pragma once

#include <cstdint>

namespace quire::attention {

// Some consecutive tokens [begin, end) of a decode row's context. Where a row has more than one part, each leaves its
// result in place `slot`, and who finishes last merges first_slot .. first_slot + num_parts.
struct Part {
    int32_t row, begin, end, slot, first_slot, num_parts;
};

// Parts [begin, end) of the plan's: the same tokens of rows that keep them in the same blocks.
struct Group {
    int32_t begin, end;
};

// Query tokens [begin, end) of a row, counted from its first one of the step.
struct Tile {
    int32_t row, begin, end;
};

// Strides in elements of the cache. All fields are 8 bytes wide.
struct Plan {
    int64_t num_heads, num_kv_heads, head_dim;
    int64_t block_size, block_stride, head_stride;
    int64_t window;  // 0: none
    int64_t is_bf16;
    const int32_t* tables;
    int64_t table_stride;
    const int32_t* cu_q;
    const int32_t* seq_lens;
    int64_t num_parts;  // not counting those of groups, which come after them
    const Part* parts;
    int64_t num_groups;
    const Group* groups;
    int64_t num_tiles;
    const Tile* tiles;
    float* partials;      // [slots, num_heads, head_dim + kPartialExtra]
    int32_t* num_finished;  // [rows, num_kv_heads], zero between calls
};

struct Call {
    const void* q;
    int64_t q_stride;  // elements from one token to the next
    const void* key_cache;
    const void* value_cache;
    void* out;
    float scale;
};

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kMaxPart = 256;   // tokens of a part; attention.py cuts
constexpr int64_t kPartialExtra = 2;  // the greatest score and the sum of the weights

// Where a row's tokens lie in the cache of one kv head, as element offsets.
class RowTokens {
public:
    RowTokens(const Plan& plan, int64_t row, int64_t kv_head)
        : plan_(plan), table_(plan.tables + row * plan.table_stride), head_(kv_head * plan.head_stride) {}

    // Of tokens [begin, end), into offsets[0 ..].
    void offsets(int64_t begin, int64_t end, int64_t* offsets) const {
        int64_t block = begin / plan_.block_size, inside = begin % plan_.block_size;
        for (int64_t token = begin; token < end; ++block, inside = 0) {
            const int64_t start = table_[block] * plan_.block_stride + head_;
            for (; inside < plan_.block_size && token < end; ++inside, ++token)
                *offsets++ = start + inside * plan_.head_dim;
        }
    }

private:
    const Plan& plan_;
    const int32_t* table_;
    int64_t head_;
};

void decode_part(const Plan& plan, const Call& call, int64_t kv_head, const Part& part);
void decode_group(const Plan& plan, const Call& call, int64_t kv_head, const Group& group);
void prefill_tile(const Plan& plan, const Call& call, int64_t kv_head, const Tile& tile);

}  // namespace quire::attention
