// The result of a part of a decode row's context, and what becomes of it: the row's output where it is the only one,
// else a partial result, until the last of the row's parts is there and all are merged.
#pragma once

#include <algorithm>
#include <cfloat>

#include "attention.h"
#include "attention_simd.h"

namespace quire::attention {

template <class T>
inline T* output_of(const Plan& plan, const Call& call, const Part& part, int64_t head) {
    return static_cast<T*>(call.out) + (plan.cu_q[part.row] * plan.num_heads + head) * plan.head_dim;
}

inline float* partial_of(const Plan& plan, int64_t slot, int64_t head) {
    return plan.partials + (slot * plan.num_heads + head) * (plan.head_dim + kPartialExtra);
}

template <class T>
inline void merge(const Plan& plan, const Part& part, int64_t head, float exponent, T* out) {
    alignas(64) float sums[kMaxHeadDim] = {};
    float most = -FLT_MAX, total_weight = 0;
    for (int64_t slot = part.first_slot; slot < part.first_slot + part.num_parts; ++slot)
        most = std::max(most, partial_of(plan, slot, head)[plan.head_dim]);
    for (int64_t slot = part.first_slot; slot < part.first_slot + part.num_parts; ++slot) {
        const float* partial = partial_of(plan, slot, head);
        const float weight = exp2((partial[plan.head_dim] - most) * exponent);
        for (int64_t d = 0; d < plan.head_dim; d += LANES)
            store(sums + d, fma(load(partial + d), broadcast(weight), load(sums + d)));
        total_weight += weight * partial[plan.head_dim + 1];
    }
    write_scaled(sums, plan.head_dim, 1.0f / total_weight, out);
}

// One head's weighted values, not yet divided by the weights' total.
template <class T>
inline void leave_result(const Plan& plan, const Call& call, const Part& part, int64_t head, const float* sums,
                         float greatest, float total) {
    if (part.num_parts == 1) {
        write_scaled(sums, plan.head_dim, 1.0f / total, output_of<T>(plan, call, part, head));
        return;
    }
    float* partial = partial_of(plan, part.slot, head);
    std::copy_n(sums, plan.head_dim, partial);
    partial[plan.head_dim] = greatest;
    partial[plan.head_dim + 1] = total;
}

// To be called once a part's results for the heads of a kv head have been left.
template <class T>
inline void finish_part(const Plan& plan, const Call& call, const Part& part, int64_t kv_head) {
    if (part.num_parts == 1) return;
    int32_t* finished = plan.num_finished + part.row * plan.num_kv_heads + kv_head;
    if (__atomic_add_fetch(finished, 1, __ATOMIC_ACQ_REL) != part.num_parts) return;
    *finished = 0;
    const int64_t heads_per_kv = plan.num_heads / plan.num_kv_heads;
    for (int64_t head = kv_head * heads_per_kv; head < (kv_head + 1) * heads_per_kv; ++head)
        merge(plan, part, head, call.scale * kLog2E, output_of<T>(plan, call, part, head));
}

}  // namespace quire::attention
