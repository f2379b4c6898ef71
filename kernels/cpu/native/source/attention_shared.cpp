// Parts of decode rows that lie in the same blocks, as one: their keys and values are laid out once for the queries of
// all these rows. Each part's result is left as if it had been alone.
#include "attention_partials.h"
#include "attention_tiles.h"

namespace quire::attention {
namespace {

template <class Math>
void attend_to_shared(const Plan& plan, const Call& call, int64_t kv_head, const Group& group) {
    using T = typename Math::Cache;
    const int64_t head_dim = plan.head_dim, heads_per_kv = plan.num_heads / plan.num_kv_heads;
    const Part* parts = plan.parts + group.begin;
    const int64_t num_parts = group.end - group.begin, first_key = parts->begin, end_key = parts->end;
    const RowTokens tokens(plan, parts->row, kv_head);

    fetch_share<Math>(plan, call, tokens, first_key, end_key, 0, 1);
    Scratch& scratch = thread_scratch();
    const int64_t padded_rows = begin_rows<Math>(scratch, num_parts * heads_per_kv, head_dim);
    for (int64_t i = 0; i < num_parts; ++i)
        take_queries<Math>(scratch, plan, call, plan.cu_q[parts[i].row], kv_head, i * heads_per_kv);

    Rows rows;
    std::fill_n(rows.first_position, kRows, first_key);
    std::fill_n(rows.end_position, kRows, end_key);
    for (int64_t begin = first_key; begin < end_key; begin += kKeys) {
        const int64_t end = std::min(begin + kKeys, end_key);
        lay_out<Math>(scratch, plan, call, tokens, begin, end);
        for (int64_t row = 0; row < padded_rows; row += kRows) {
            fetch_share<Math>(plan, call, tokens, end, end_key, row / kRows, padded_rows / kRows);
            attend<Math>(scratch, rows, row, begin, end, head_dim, call.scale * kLog2E);
        }
    }
    for (int64_t i = 0; i < num_parts; ++i) {
        for (int64_t h = 0; h < heads_per_kv; ++h) {
            const int64_t row = i * heads_per_kv + h;
            leave_result<T>(plan, call, parts[i], kv_head * heads_per_kv + h, scratch.sums + row * head_dim,
                            scratch.greatest[row], scratch.total[row]);
        }
        finish_part<T>(plan, call, parts[i], kv_head);
    }
}

}  // namespace

void decode_group(const Plan& plan, const Call& call, int64_t kv_head, const Group& group) {
    if (plan.is_bf16)
        attend_to_shared<CachedBf16Math>(plan, call, kv_head, group);
    else
        attend_to_shared<FloatMath<float>>(plan, call, kv_head, group);
}

}  // namespace quire::attention
