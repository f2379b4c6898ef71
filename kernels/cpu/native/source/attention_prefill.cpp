// Some query tokens of a row against its context, for all query heads of a kv head: each sees the keys before it.
#include "attention_tiles.h"

namespace quire::attention {
namespace {

template <class Math>
void prefill(const Plan& plan, const Call& call, int64_t kv_head, const Tile& tile) {
    using T = typename Math::Cache;
    const int64_t head_dim = plan.head_dim, heads_per_kv = plan.num_heads / plan.num_kv_heads;
    const int64_t num_rows = (tile.end - tile.begin) * heads_per_kv;
    const int64_t token = plan.cu_q[tile.row] + tile.begin;
    // Position of the tile's first query token in its row.
    const int64_t position =
        plan.seq_lens[tile.row] - (plan.cu_q[tile.row + 1] - plan.cu_q[tile.row]) + tile.begin;

    Scratch& scratch = thread_scratch();
    const int64_t padded_rows = begin_rows<Math>(scratch, num_rows, head_dim);
    for (int64_t i = 0; i < tile.end - tile.begin; ++i)
        take_queries<Math>(scratch, plan, call, token + i, kv_head, i * heads_per_kv);

    const int64_t first_key = plan.window ? std::max<int64_t>(0, position - plan.window + 1) : 0;
    const int64_t end_key = position + tile.end - tile.begin;
    const RowTokens tokens(plan, tile.row, kv_head);
    for (int64_t begin = first_key; begin < end_key; begin += kKeys) {
        const int64_t end = std::min(begin + kKeys, end_key);
        lay_out<Math>(scratch, plan, call, tokens, begin, end);
        for (int64_t row = 0; row < padded_rows; row += kRows) {
            fetch_share<Math>(plan, call, tokens, end, end_key, row / kRows, padded_rows / kRows);
            Rows rows;
            for (int r = 0; r < kRows; ++r) {
                const int64_t at = position + std::min(row + r, num_rows - 1) / heads_per_kv;
                rows.end_position[r] = at + 1;
                rows.first_position[r] = plan.window ? std::max<int64_t>(0, at + 1 - plan.window) : 0;
            }
            attend<Math>(scratch, rows, row, begin, end, head_dim, call.scale * kLog2E);
        }
    }
    for (int64_t row = 0; row < num_rows; ++row) {
        const int64_t head = kv_head * heads_per_kv + row % heads_per_kv;
        T* out = static_cast<T*>(call.out) + ((token + row / heads_per_kv) * plan.num_heads + head) * head_dim;
        write_scaled(scratch.sums + row * head_dim, head_dim, 1.0f / scratch.total[row], out);
    }
}

}  // namespace

void prefill_tile(const Plan& plan, const Call& call, int64_t kv_head, const Tile& tile) {
    if (plan.is_bf16)
        prefill<CachedBf16Math>(plan, call, kv_head, tile);
    else
        prefill<FloatMath<float>>(plan, call, kv_head, tile);
}

}  // namespace quire::attention
