// Work shared out among torch's OpenMP threads in chunks that each takes when it is free: a thread that another
// process has pushed off its core holds up one chunk, not a fixed share of the whole.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>

#define QUIRE_EXPORT extern "C" __attribute__((visibility("default")))

namespace quire {

// body(chunk) for every chunk in [0, num_chunks); chunks must not depend on each other.
template <class Body>
inline void parallel_chunks(long num_chunks, Body body) {
    if (num_chunks <= 1 || omp_get_max_threads() == 1) {
        for (long chunk = 0; chunk < num_chunks; ++chunk) body(chunk);
        return;
    }
    std::atomic<long> next{0};
#pragma omp parallel
    for (long chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < num_chunks;) body(chunk);
}

// body(first, last) for ranges of rows of which each reads and writes so many bytes; little work is done at once
// by the calling thread, since waking others takes longer.
template <class Body>
inline void parallel_rows(long num_rows, long bytes_per_row, Body body) {
    constexpr long ALONE_BYTES = 256 << 10, CHUNK_BYTES = 64 << 10;
    if (num_rows * bytes_per_row <= ALONE_BYTES) {
        body(0, num_rows);
        return;
    }
    const long rows = std::max(1L, CHUNK_BYTES / bytes_per_row);
    parallel_chunks((num_rows + rows - 1) / rows, [=](long chunk) {
        body(chunk * rows, std::min(num_rows, (chunk + 1) * rows));
    });
}

}  // namespace quire
