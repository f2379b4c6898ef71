// Work shared out among as many threads as torch is to use, in chunks that each takes when it is free: a thread that
// another process has pushed off its core holds up one chunk, not a fixed share of the whole.
#pragma once

#include <omp.h>

#include <algorithm>
#include <memory>

#include "pool.h"

#define QUIRE_EXPORT extern "C" __attribute__((visibility("default")))

namespace quire {

// body(chunk) for every chunk in [0, num_chunks); chunks must not depend on each other.
template <class Body>
inline void parallel_chunks(long num_chunks, Body body) {
    pool().run(num_chunks, omp_get_max_threads(),
               [](const void* data, long chunk) { (*static_cast<const Body*>(data))(chunk); }, std::addressof(body));
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
