// What several kernels share. No #include: NVRTC has no standard headers, and a C++ compiler must take this text too.

typedef long long int64;
typedef unsigned int word; // 32 flags of one row; bit i is column 32 * j + i of word j

// Flat number of this thread in a one-dimensional grid.
__device__ inline int64 thread_number() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }
__device__ inline float not_a_number() { return __uint_as_float(0x7fc00000u); }

// Neither NaN nor infinite.
__device__ inline bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }
__device__ inline bool is_finite(double x) { return fabs(x) <= 1.7976931348623157e308; }

// A float as an unsigned number of the same order (-0 just below +0), and back.
__device__ inline unsigned order_key(float x) {
    const unsigned bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float key_value(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// Radix selection counts samples by their next digit of 8 bits, apart for each wanted element that they agree with in
// the bits above, or for the first of those: 256 times its number and the digit; -1 if none agrees, or the value is not
// finite.
template <int N> __device__ inline int digit_place(const unsigned (&prefixes)[N], float value, int shift) {
    const unsigned key = order_key(value);
    int place = -1;
    for (int i = N - 1; i >= 0; i--) { // two shifts: no bits are above the first digit
        if ((key ^ prefixes[i]) >> shift >> 8 == 0) place = 256 * i + (int)(key >> shift & 255);
    }
    return is_finite(value) ? place : -1;
}

// It then walks the counts of the digits: 16 groups of them first, and the 16 digits of one.
__device__ inline unsigned group_count(const unsigned* digit_counts, int group) {
    unsigned count = 0; // neighbouring threads start in different banks of shared memory
    for (int i = 0; i < 16; i++) count += digit_counts[16 * group + (i + group) % 16];
    return count;
}

// The digit of the element number `rest` (from 0) of those counted; `rest` becomes its number among its likes.
__device__ inline unsigned pick_digit(const unsigned* digit_counts, const unsigned* group_counts, unsigned* rest) {
    int group = 0;
    while (group < 15 && *rest >= group_counts[group]) *rest -= group_counts[group++];
    int digit = 16 * group;
    while (digit < 16 * group + 15 && *rest >= digit_counts[digit]) *rest -= digit_counts[digit++];
    return digit;
}

// Rank of the lower of the two elements that a linear quantile of n lies between; the other is the next, if there is.
__device__ inline unsigned rank_below(double fraction, unsigned n) { return n ? (unsigned)(fraction * (n - 1)) : 0; }

// That quantile; NaN of nothing.
__device__ inline double linear_quantile(double fraction, unsigned n, double low, double high) {
    const double part = fraction * (n - 1) - rank_below(fraction, n);
    return n ? low + (high - low) * part : not_a_number();
}

// Half width of a round of the clip: the first one, also of a single sample, or from the variance that the round
// before has left, where NaN stays NaN.
__device__ inline double clip_width(bool first, double first_width, double sigma, double variance, int n) {
    return first || n == 1 ? first_width : sigma * sqrt(variance < 0 ? 0 : variance);
}

// What a round of the clip keeps: how many samples, and sums of their deviations from an origin.
struct Kept {
    double sum, square;
    int number;

    __device__ inline void take(float value, double centre, double width, double origin) {
        if (!is_finite(value) || !(fabs(value - centre) <= width)) return; // bounds may be NaN
        const double deviation = value - origin;
        sum += deviation;
        square += deviation * deviation;
        number++;
    }
};

// Sums over a block of `n` threads, a power of two, of what each has put in shared arrays, in their first elements: the
// same tree always. Thread 0 sees the sums; the others after one more barrier.
template <typename... T> __device__ inline void sum_block(int thread, int n, T*... arrays) {
    for (int step = n / 2; step > 0; step /= 2) {
        __syncthreads();
        if (thread < step) ((arrays[thread] += arrays[thread + step]), ...);
    }
}

// Mean and de-biased variance from the sums of n deviations from `origin` and of their squares; NaN of too few.
__device__ inline double mean_of(double origin, double sum, int n) { return origin + sum / n; }
__device__ inline double variance_of(double sum, double squares, int n) {
    const double shift = sum / n;
    return n > 1 ? (squares - n * shift * shift) / (n - 1) : not_a_number();
}
