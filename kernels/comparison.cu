// Which pixels of k epochs stand out from the static sky, and which count at all.
//
// (epoch, y, x) planes, rows contiguous. Thread (x, y) owns one pixel and walks the epochs; a warp owns 32 columns of a
// row and writes what it found as one word for each epoch. Template and limits as in fallback/comparison.py, operation
// by operation: float32 for the difference and its variance, float64 for the decision, which few pixels come near.
//
// Macros: TEMPLATE (0: the image is the difference), IN_SIGMAS (limits times sqrt(variance), or values), PEAKS.

__device__ inline word flags_of_warp(bool flag) { return __ballot_sync(0xffffffffu, flag); }

extern "C" __global__ void compare(const float* __restrict__ image, const float* __restrict__ variance,
                                   const int* __restrict__ mask, const float* __restrict__ template_image,
                                   const float* __restrict__ template_variance, const float* __restrict__ scales,
                                   const double* __restrict__ limits, const float* __restrict__ near_limits,
                                   double peak, int exclude, int reject, int edge_bits, word* positive, word* negative,
                                   word* positive_peaks, word* negative_peaks, word* no_data, word* edge, int* n_good,
                                   int n_epochs, int n_rows, int n_columns, int n_words, int64 image_stride,
                                   int64 variance_stride, int64 mask_stride) {
    int row_blocks = (n_columns + blockDim.x - 1) / blockDim.x;
    int x = blockIdx.x % row_blocks * blockDim.x + threadIdx.x, y = blockIdx.x / row_blocks;
    bool inside = x < n_columns; // the others stay, for the whole warp must reach the ballots
    bool writes = (x & 31) == 0 && inside;
    int pixel = inside ? y * n_columns + x : 0;
    int64 words_per_epoch = (int64)n_rows * n_words, at = (int64)y * n_words + x / 32;
#if TEMPLATE
    float sky = template_image[pixel], sky_variance = template_variance[pixel];
#endif
    int count = 0;
#pragma unroll 4
    for (int epoch = 0; epoch < n_epochs; epoch++, at += words_per_epoch) {
        float value = image[epoch * image_stride + pixel], spread = variance[epoch * variance_stride + pixel];
        int bits = mask[epoch * mask_stride + pixel];
        float scale = scales[epoch];
        if (scale == scale) spread = spread * scale;
#if TEMPLATE
        value = value - sky;
        spread = spread + sky_variance;
#endif
        bool missing = value != value;
        count += is_finite(value) && (bits & reject) == 0;
        if (bits & exclude) value = 0.0f;
#if IN_SIGMAS
        bool candidate = fabsf(value) >= sqrtf(spread) * near_limits[epoch] && spread < infinity();
#else
        bool candidate = fabsf(value) >= near_limits[epoch];
#endif
        bool above = false, below = false, far_above = false, far_below = false;
        if (candidate && inside) {
#if IN_SIGMAS
            double sigma = sqrt((double)spread);
#else
            double sigma = 1.0;
#endif
            above = (double)value >= limits[epoch] * sigma;
            below = -(double)value >= limits[epoch] * sigma;
#if PEAKS
            far_above = (double)value >= limits[epoch] * peak * sigma;
            far_below = -(double)value >= limits[epoch] * peak * sigma;
#endif
        }
        word found[6] = {flags_of_warp(above),     flags_of_warp(below),
                         flags_of_warp(far_above), flags_of_warp(far_below),
                         flags_of_warp(missing && inside), flags_of_warp((bits & edge_bits) != 0 && inside)};
        if (writes) {
            positive[at] = found[0];
            negative[at] = found[1];
#if PEAKS
            positive_peaks[at] = found[2];
            negative_peaks[at] = found[3];
#endif
            no_data[at] = found[4];
            edge[at] = found[5];
        }
    }
    if (inside) n_good[pixel] = count;
}
