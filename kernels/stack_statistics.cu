// One statistic over the epochs of every pixel, its variance and its mask. fallback/statistics.py is the definition.
//
// (epoch, pixel) planes, pixels contiguous, any distance between epochs. A thread owns a pixel and walks its epochs in
// order; every sum is a float64 sum in that order, about the same float32 shift as on the host, so results are equal to
// the bit. Image, mask and variance are read once each:
//
//   first walk    mask bits, count, plain sums; good samples go into the thread's column of `tile`, bad ones as NaN
//   order         the column into registers, bad samples as +inf; a sorting network written out by the launcher
//   more walks    one for each round of clipping, over the column; the last reads the variance of the samples
//
// A column belongs to one thread, so there is no barrier. Registers hold an array only while every index is a constant:
// hence the written-out network, and elements picked by a chain of selects.
//
// Macros: STATISTIC; N_SAMPLES, room for samples, or 0 to read the planes anew for every walk and to find order
// statistics by bisection, for any number of epochs; SORT_NETWORK, `CE(i, j) ...`; BLOCK, threads; FROM_INPUT, variance
// of a mean from the input variances; ONLINE and LSST_EXTREMES as in Rules; N_PROPAGATED, bits with a threshold.

enum Statistic {
    MEAN, MEDIAN, MEANCLIP, VARIANCE, VARIANCECLIP, STDEV, STDEVCLIP, MEANSQUARE,
    SUM, MIN, MAX, NPOINT, NCLIPPED, NMASKED, IQRANGE
};
constexpr Statistic statistic = STATISTIC;
constexpr bool is_clipped = statistic == MEANCLIP || statistic == VARIANCECLIP || statistic == STDEVCLIP;
constexpr bool needs_order = is_clipped || statistic == MEDIAN || statistic == IQRANGE;
constexpr bool is_plain_mean = statistic == MEAN && FROM_INPUT; // its moments are taken about 0, in the first walk
constexpr bool is_about_mean =
    (statistic == MEAN && !FROM_INPUT) || statistic == VARIANCE || statistic == STDEV || statistic == MEANSQUARE;
constexpr bool walks_again = needs_order || is_about_mean;
constexpr bool has_value_when_empty =
    statistic == SUM || statistic == NPOINT || statistic == NCLIPPED || statistic == NMASKED;

struct Planes {
    const float* __restrict__ image;
    const float* __restrict__ variance;
    const int* __restrict__ mask;
    int64 image_stride, variance_stride, mask_stride;
    const double* __restrict__ weights;
    int n_epochs, reject, pixel;

    __device__ float value(int epoch) const { return image[epoch * image_stride + pixel]; }
    __device__ float spread(int epoch) const { return variance[epoch * variance_stride + pixel]; }
    __device__ int bits(int epoch) const { return mask[epoch * mask_stride + pixel]; }
    __device__ bool is_good(float value, int bits) const { return is_finite(value) && (bits & reject) == 0; }
};

// The good samples of a pixel by epoch; NaN for the others.
struct Samples {
#if N_SAMPLES
    float* column;
    __device__ float operator[](int epoch) const { return column[epoch * BLOCK]; }
    __device__ void keep(int epoch, float value) const { column[epoch * BLOCK] = value; }
#else
    Planes planes;
    __device__ float operator[](int epoch) const {
        float value = planes.value(epoch);
        return planes.is_good(value, planes.bits(epoch)) ? value : not_a_number();
    }
    __device__ void keep(int, float) const {}
#endif
};

// Epochs are walked in batches without a branch, so that the reads of a batch are all under way at once. Where the last
// batch is not full, the last epoch comes again and is not new.
constexpr int batch = 8;

struct Step {
    int epoch;
    bool is_new;
    __device__ inline Step(int number, int n_epochs)
        : epoch(number < n_epochs ? number : n_epochs - 1), is_new(number < n_epochs) {}
};

// What the first walk finds.
struct Totals {
    int count, kept_bits, lost_bits;
    double weight, value, error; // sums over the good samples; which ones depends on the statistic
    double lost_weight[N_PROPAGATED + 1];
    float smallest, largest;
};

__device__ inline Totals first_walk(const Planes& planes, const Samples& samples, const int* propagated) {
    Totals out = {};
    out.smallest = infinity();
    out.largest = -infinity();
    int looked_for[N_PROPAGATED + 1] = {};
    for (int i = 0; i < N_PROPAGATED; i++)
        looked_for[i] = propagated[i];
    for (int start = 0; start < planes.n_epochs; start += batch)
#pragma unroll
        for (int i = 0; i < batch; i++) {
            Step step(start + i, planes.n_epochs);
            float value = planes.value(step.epoch);
            int bits = planes.bits(step.epoch);
            double weight = planes.weights[step.epoch];
            bool usable = planes.is_good(value, bits), good = usable & step.is_new;
            float filled = good ? value : 0.0f;
            out.count += good;
            out.kept_bits |= good ? bits : 0;
            out.lost_bits |= ONLINE ? bits & planes.reject : bits; // an epoch seen again has nothing to add
            out.weight += good ? weight : 0.0;
#pragma unroll
            for (int j = 0; j < N_PROPAGATED; j++)
                out.lost_weight[j] += !usable & step.is_new & ((bits & looked_for[j]) != 0) ? weight : 0.0;
            if constexpr (is_plain_mean) {
                float spread = planes.spread(step.epoch);
                spread = good ? spread : 0.0f;
                // online as LSST's running sums: each product is rounded to float32
                out.value += ONLINE ? filled * (float)weight : filled * weight;
                out.error += ONLINE ? spread * (float)(weight * weight) : spread * (weight * weight);
            }
            if constexpr (is_about_mean) out.value += filled;
            if constexpr (statistic == SUM || LSST_EXTREMES) out.value += filled * weight;
            if constexpr (statistic == MIN) out.smallest = good ? fminf(out.smallest, value) : out.smallest;
            if constexpr (statistic == MAX) out.largest = good ? fmaxf(out.largest, value) : out.largest;
            if constexpr (walks_again) samples.keep(step.epoch, usable ? value : not_a_number());
        }
    return out;
}

// What good samples carry, what rejected weight asks for, and what was lost.
__device__ inline int combine_masks(const Totals& totals, const int* propagated, const double* thresholds,
                                    const int* mapped, int n_mapped, int n_epochs, int no_data) {
    int out = totals.kept_bits;
#pragma unroll
    for (int i = 0; i < N_PROPAGATED; i++)
        if (totals.lost_weight[i] / (totals.weight + totals.lost_weight[i]) > thresholds[i]) out |= propagated[i];
    if (totals.count == 0) out = ONLINE ? out | no_data : no_data;
    if (totals.count < n_epochs)
        for (int i = 0; i < n_mapped; i++)
            if (totals.lost_bits & mapped[2 * i]) out |= mapped[2 * i + 1];
    return out;
}

// Weighted moments of the samples within half_width of centre.
struct Moments {
    double mean, scatter, mean_variance;
    int count;
};

template <bool with_scatter, bool with_error>
__device__ inline Moments moments(const Planes& planes, const Samples& samples, float shift, double centre,
                                  double half_width) {
    double total = 0.0, squares = 0.0, first = 0.0, second = 0.0, error = 0.0;
    int count = 0;
    for (int start = 0; start < planes.n_epochs; start += batch)
#pragma unroll
        for (int i = 0; i < batch; i++) {
            Step step(start + i, planes.n_epochs);
            double value = samples[step.epoch], weight = planes.weights[step.epoch];
            bool kept = step.is_new & (fabs(value - centre) <= half_width); // never for NaN
            double kept_weight = kept ? weight : 0.0, deviation = kept ? value - shift : 0.0;
            double term = deviation * weight;
            count += kept;
            total += kept_weight;
            first += term;
            if constexpr (with_scatter) {
                squares += kept_weight * weight;
                second += term * deviation;
            }
            if constexpr (with_error) {
                float spread = planes.spread(step.epoch);
                error += (kept ? spread : 0.0f) * (weight * weight);
            }
        }
    double offset = first / total, total_squared = total * total, scatter = 0.0, mean_variance = 0.0;
    if constexpr (with_scatter) {
        scatter = (second / total - offset * offset) * (total_squared / (total_squared - squares));
        if (count == 1) scatter = not_a_number(); // rounding would decide between NaN and inf
        mean_variance = scatter * squares / total_squared;
    }
    if constexpr (with_error) mean_variance = error / total_squared;
    return {offset + shift, scatter, mean_variance, count};
}

// The linear quantile at QUARTER / 4 lies between the samples of this rank and the next. The same as `rank_below` and
// `linear_quantile` of common.cuh, for at least one sample: their answer for none would cost some ten registers,
// which the largest sort does not have.
template <int QUARTER> __device__ inline int rank_below(int count) { return (int)(QUARTER * 0.25 * (count - 1)); }

template <int QUARTER> __device__ inline double between(float low, float high, int count) {
    return low + ((double)high - low) * (QUARTER * 0.25 * (count - 1) - rank_below<QUARTER>(count));
}

#if N_SAMPLES
#define CE(i, j)                                                                                                       \
    {                                                                                                                  \
        float low = fminf(v[i], v[j]);                                                                                 \
        v[j] = fmaxf(v[i], v[j]);                                                                                      \
        v[i] = low;                                                                                                    \
    }

// The good samples in ascending order; `count` of them are asked for, and what follows is +inf.
struct Ordered {
    float v[N_SAMPLES];
    int count;

    __device__ inline Ordered(const Samples& samples, int, int n_good) : count(n_good) {
#pragma unroll
        for (int i = 0; i < N_SAMPLES; i++)
            v[i] = samples[i] == samples[i] ? samples[i] : infinity();
        SORT_NETWORK
    }

    template <int QUARTER> __device__ inline double quantile() const {
        int below = rank_below<QUARTER>(count);
        float low = v[0], high = v[0];
#pragma unroll
        for (int i = 0; i <= (N_SAMPLES - 1) * QUARTER / 4; i++) {
            constexpr int last = N_SAMPLES - 1;
            if (i == below) {
                low = v[i];
                high = v[i < last ? i + 1 : last];
            }
        }
        return between<QUARTER>(low, below + 1 < count ? high : low, count);
    }
};
#else
struct Ordered {
    const Samples& samples;
    int n_epochs, count;

    __device__ inline Ordered(const Samples& of, int n, int n_good) : samples(of), n_epochs(n), count(n_good) {}

    // The number of rank `rank`: the largest that at most so many samples are below, bit by bit from the highest.
    __device__ inline float at(int rank) const {
        unsigned int key = 0;
        for (int bit = 31; bit >= 0; bit--) {
            unsigned int trial = key | 1u << bit;
            int below = 0;
            for (int epoch = 0; epoch < n_epochs; epoch++)
                below += order_key(samples[epoch]) < trial; // that of NaN is the highest
            if (below <= rank) key = trial;
        }
        return key_value(key);
    }

    // The number of rank `rank`, when `low` is that of the rank before.
    __device__ inline float next(float low, int rank) const {
        int up_to_low = 0;
        float next = infinity();
        for (int epoch = 0; epoch < n_epochs; epoch++) {
            float value = samples[epoch];
            up_to_low += value <= low;
            if (value > low) next = fminf(next, value);
        }
        return up_to_low > rank ? low : next;
    }

    template <int QUARTER> __device__ inline double quantile() const {
        int below = rank_below<QUARTER>(count);
        float low = at(below);
        return between<QUARTER>(low, below + 1 < count ? next(low, below + 1) : low, count);
    }
};
#endif

struct Result {
    double value, variance;
    bool was_clipped;
};

__device__ inline Result in_one_walk(const Totals& totals, int n_epochs) {
    double value = 0.0, variance = 0.0;
    if constexpr (is_plain_mean) {
        value = totals.value / totals.weight;
        variance = totals.error / (totals.weight * totals.weight);
    }
    if constexpr (statistic == SUM) value = totals.value;
    if constexpr (statistic == MIN) value = totals.smallest;
    if constexpr (statistic == MAX) value = totals.largest;
    if constexpr (LSST_EXTREMES) { // the search starts at the weighted sum over the count
        double start = totals.value / totals.count;
        bool stays = statistic == MIN ? value <= start : value >= start;
        value = stays ? value : start;
    }
    if constexpr (statistic == NPOINT) value = totals.count;
    if constexpr (statistic == NMASKED) value = n_epochs - totals.count;
    return {value, variance, false};
}

__device__ inline Result about_mean(const Planes& planes, const Samples& samples, const Totals& totals) {
    double n = totals.count;
    float shift = (float)(totals.value / n);
    Moments all = moments<true, false>(planes, samples, shift, shift, infinity());
    double scatter = all.scatter;
    if constexpr (statistic == MEAN) return {all.mean, all.mean_variance, false};
    if constexpr (statistic == VARIANCE) return {scatter, 2.0 * (n - 1.0) * scatter * scatter / (n * n), false};
    if constexpr (statistic == STDEV) return {sqrt(scatter), 0.5 * (n - 1.0) * scatter / (n * n), false};
    double value = (n - 1.0) / n * scatter + all.mean * all.mean; // MEANSQUARE
    return {value, 2.0 * ((value / n) * (value / n)), false};
}

// Every round of clipping starts again from all good samples.
__device__ inline Result of_order(const Planes& planes, const Samples& samples, int count, double sigma,
                                  double first_sigma, int iterations) {
    double quarter, half, three_quarters;
    {
        Ordered ordered(samples, planes.n_epochs, count > 0 ? count : 1); // an empty pixel is NaN in the end
        quarter = ordered.quantile<1>();
        half = ordered.quantile<2>();
        three_quarters = ordered.quantile<3>();
    }
    double range = three_quarters - quarter;
    if constexpr (statistic == IQRANGE) return {range, not_a_number(), false};
    float shift = (float)half;
    if constexpr (statistic == MEDIAN) {
        Moments all = moments<true, false>(planes, samples, shift, shift, infinity());
        return {half, 1.5707963267948966 * all.scatter / count, false}; // pi / 2
    }
    double centre = half, half_width = iterations > 0 ? first_sigma * range : infinity();
    for (int round = 1; round < iterations; round++) {
        Moments kept = moments<true, false>(planes, samples, shift, centre, half_width);
        centre = kept.mean;
        if (count > 1) half_width = sigma * sqrt(kept.scatter < 0.0 ? 0.0 : kept.scatter);
    }
    constexpr bool with_error = statistic == MEANCLIP && FROM_INPUT;
    Moments kept = moments<!with_error, with_error>(planes, samples, shift, centre, half_width);
    bool was_clipped = kept.count < count;
    double scatter = kept.scatter, n = kept.count;
    if constexpr (statistic == MEANCLIP) return {kept.mean, kept.mean_variance, was_clipped};
    if constexpr (statistic == VARIANCECLIP) return {scatter, not_a_number(), was_clipped};
    double error = 0.5 * (n - 1.0) * scatter / (n * n);
    return {sqrt(scatter), scatter == 0.0 ? not_a_number() : error, was_clipped}; // as LSST's 0 / 0, for equal samples
}

extern "C" __global__ void stack_statistics(const float* __restrict__ image, const float* __restrict__ variance,
                                            const int* __restrict__ mask, int64 image_stride, int64 variance_stride,
                                            int64 mask_stride, const double* __restrict__ weights,
                                            const double* __restrict__ thresholds, const int* __restrict__ propagated,
                                            const int* __restrict__ mapped, int n_mapped, int reject, int no_data,
                                            int clipped, double sigma, double first_sigma, int iterations,
                                            int n_epochs, int n_pixels, float* __restrict__ out_image,
                                            float* __restrict__ out_variance, int* __restrict__ out_mask) {
    if (thread_number() >= n_pixels) return;
    int pixel = (int)thread_number();
    Planes planes = {image,   variance, mask,   image_stride, variance_stride, mask_stride,
                     weights, n_epochs, reject, pixel};
#if N_SAMPLES
    __shared__ float tile[walks_again ? N_SAMPLES : 1][BLOCK];
    Samples samples = {&tile[0][threadIdx.x]};
    if constexpr (needs_order)
        for (int epoch = n_epochs; epoch < N_SAMPLES; epoch++)
            samples.keep(epoch, not_a_number());
#else
    Samples samples = {planes};
#endif
    Totals totals = first_walk(planes, samples, propagated);
    int bits = combine_masks(totals, propagated, thresholds, mapped, n_mapped, n_epochs, no_data);
    Result result = {};
    if constexpr (needs_order)
        result = of_order(planes, samples, totals.count, sigma, first_sigma, iterations);
    else if constexpr (is_about_mean)
        result = about_mean(planes, samples, totals);
    else
        result = in_one_walk(totals, n_epochs);
    if (totals.count == 0 && !has_value_when_empty) {
        result.value = not_a_number();
        if (statistic != MIN && statistic != MAX) result.variance = not_a_number();
    }
    out_image[pixel] = (float)result.value;
    out_variance[pixel] = (float)result.variance;
    out_mask[pixel] = result.was_clipped ? bits | clipped : bits;
}
