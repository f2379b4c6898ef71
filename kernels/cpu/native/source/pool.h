// The threads that compute beside the one that calls. A call is over when its chunks are: whoever has taken none is
// not waited for, so a thread that other processes keep off its core costs nothing but its help. OpenMP's regions end
// when every thread has been there.
#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>

namespace quire {

class Pool {
   public:
    using Body = void (*)(const void* data, long chunk);

    // body(data, chunk) for every chunk in [0, num_chunks), by the caller and up to num_threads - 1 others. Called
    // from within a body, or while another thread is in here, the caller does it all.
    void run(long num_chunks, int num_threads, Body body, const void* data) {
        if (num_threads <= 1 || num_chunks <= 1 || is_taken_.exchange(true, std::memory_order_acquire)) {
            for (long chunk = 0; chunk < num_chunks; ++chunk) body(data, chunk);
            return;
        }
        while (num_helpers_ < num_threads - 1) std::thread(&Pool::help, this, num_helpers_++).detach();
        body_ = body;
        data_ = data;
        num_chunks_ = num_chunks;
        num_wanted_ = num_threads - 1;
        next_.store(0, std::memory_order_relaxed);
        is_open_.store(true);
        calls_.fetch_add(1);
        if (num_asleep_.load() > 0) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
        work();
        is_open_.store(false);
        // Whoever is inside now finishes a chunk; who comes later finds the door closed.
        for (long looks = 0; num_inside_.load() > 0; ++looks) {
            if (looks < PATIENT_LOOKS)
                _mm_pause();
            else
                sched_yield();  // it may be waiting for this very core
        }
        is_taken_.store(false, std::memory_order_release);
    }

   private:
    // From one operation of a step to the next; longer pauses are slept through.
    static constexpr uint64_t AWAKE_CYCLES = 300'000;
    static constexpr long PATIENT_LOOKS = 1000;

    void work() {
        for (long chunk; (chunk = next_.fetch_add(1, std::memory_order_relaxed)) < num_chunks_;) body_(data_, chunk);
    }

    void help(int index) {
        pthread_setname_np(pthread_self(), "quire-kernels");
        for (uint32_t seen = 0;;) {
            seen = next_call(seen);
            num_inside_.fetch_add(1);
            if (is_open_.load() && index < num_wanted_) work();
            num_inside_.fetch_sub(1);
        }
    }

    uint32_t next_call(uint32_t seen) {
        const uint64_t start = __rdtsc();
        for (;;) {
            const uint32_t now = calls_.load();
            if (now != seen) return now;
            if (__rdtsc() - start < AWAKE_CYCLES) {
                _mm_pause();
                continue;
            }
            num_asleep_.fetch_add(1);
            futex(FUTEX_WAIT_PRIVATE, seen);
            num_asleep_.fetch_sub(1);
        }
    }

    void futex(int operation, uint32_t value) {
        static_assert(sizeof(calls_) == sizeof(uint32_t));
        syscall(SYS_futex, &calls_, operation, value, nullptr, nullptr, 0);
    }

    std::atomic<bool> is_taken_{false};
    int num_helpers_ = 0;
    // Written while the door is closed and nobody is inside, read by who is.
    Body body_ = nullptr;
    const void* data_ = nullptr;
    long num_chunks_ = 0;
    int num_wanted_ = 0;
    alignas(64) std::atomic<long> next_{0};
    alignas(64) std::atomic<bool> is_open_{false};
    std::atomic<int> num_inside_{0};
    alignas(64) std::atomic<uint32_t> calls_{0};
    std::atomic<int> num_asleep_{0};
};

// One for the process. Never destroyed: its threads have no end.
inline Pool& pool() {
    static Pool* const made = new Pool;
    return *made;
}

}  // namespace quire
