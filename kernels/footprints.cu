// Counts, sums and common values of a quantity over footprints.
//
// labels (m,) names the footprint of each pixel; results are (n + 1,), indexed by label. Neighbouring pixels mostly
// belong to one footprint, so a thread owns a stretch of pixels and turns to memory once per run of equal labels.
// Integers only: the order in which threads arrive does not show.
//
// Macro: STRETCH, pixels of a thread.

// Calls take(i) for each pixel of this thread's stretch and hand_in(label) at the end of each run of equal labels.
template <typename Take, typename HandIn>
__device__ inline void walk_runs(const int* labels, int m, Take take, HandIn hand_in) {
    int64 first = thread_number() * STRETCH;
    int64 end = min(first + STRETCH, (int64)m);
    for (int64 i = first; i < end; ++i) {
        take(i);
        if (i + 1 == end || labels[i + 1] != labels[i]) hand_in(labels[i]);
    }
}

extern "C" __global__ void count_pixels(const int* __restrict__ labels, int* counts, int m) {
    int run = 0;
    walk_runs(
        labels, m, [&](int64) { ++run; },
        [&](int label) {
            atomicAdd(&counts[label], run);
            run = 0;
        });
}

extern "C" __global__ void count_flagged(const int* __restrict__ labels, const bool* __restrict__ flags, int* counts,
                                         int m) {
    int run = 0;
    walk_runs(
        labels, m, [&](int64 i) { run += flags[i]; },
        [&](int label) {
            if (run) atomicAdd(&counts[label], run);
            run = 0;
        });
}

// The unsigned addition is the signed one, bit by bit; CUDA has no other for 64 bits.
extern "C" __global__ void sum_values(const int* __restrict__ labels, const int* __restrict__ values, int64* sums,
                                      int m) {
    int64 run = 0;
    walk_runs(
        labels, m, [&](int64 i) { run += values[i]; },
        [&](int label) {
            if (run) atomicAdd((unsigned long long*)&sums[label], (unsigned long long)run);
            run = 0;
        });
}

// Smallest and largest value; the launcher starts them at the largest int and at 0.
extern "C" __global__ void extreme_values(const int* __restrict__ labels, const int* __restrict__ values, int* lowest,
                                          int* highest, int m) {
    int low = 0x7fffffff, high = 0;
    walk_runs(
        labels, m,
        [&](int64 i) {
            low = min(low, values[i]);
            high = max(high, values[i]);
        },
        [&](int label) {
            atomicMin(&lowest[label], low);
            atomicMax(&highest[label], high);
            low = 0x7fffffff;
            high = 0;
        });
}
