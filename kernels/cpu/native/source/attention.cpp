// Paged attention of one layer: the chunks of a plan, shared out. Tiles first, they are the long ones, then
// groups; then parts, kv head by kv head, so that rows with blocks in common find them in the cache.
#include "attention.h"
#include "parallel.h"

namespace attention = quire::attention;

QUIRE_EXPORT void quire_paged_attention(const attention::Plan* plan, const void* q, long q_stride,
                                        const void* key_cache, const void* value_cache, void* out, float scale) {
    const attention::Call call{q, q_stride, key_cache, value_cache, out, scale};
    const long num_kv_heads = plan->num_kv_heads, num_parts = plan->num_parts, num_groups = plan->num_groups;
    const long num_tiles = plan->num_tiles * num_kv_heads;
    quire::parallel_chunks(num_tiles + (num_groups + num_parts) * num_kv_heads, [&](long chunk) {
        if (chunk < num_tiles)
            return attention::prefill_tile(*plan, call, chunk % num_kv_heads, plan->tiles[chunk / num_kv_heads]);
        chunk -= num_tiles;
        if (chunk < num_groups * num_kv_heads)
            return attention::decode_group(*plan, call, chunk / num_groups, plan->groups[chunk % num_groups]);
        chunk -= num_groups * num_kv_heads;
        attention::decode_part(*plan, call, chunk / num_parts, plan->parts[chunk % num_parts]);
    });
}
