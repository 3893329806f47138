// The background of k epochs at every pixel, from splines along the rows, and what stands above it.
//
// (epoch, y, x) planes. A row is cut into pieces with a cubic polynomial each: coefficients (epoch, y, piece, 4) by
// ascending power; piece and offset (epoch, x) say where a column lies. A thread owns a pixel; blockIdx.y is the epoch.
// A warp mostly reads the coefficients of two neighbouring pieces.

struct Splines {
    const float* coefficients;
    const int* piece;
    const float* offset;
    int n_pieces, n_columns;
    int64 n_pixels; // of an epoch
};

// In float32, in the order of fallback/background_level.py.
__device__ inline float level_at(const Splines& of, int epoch, int pixel) {
    int y = pixel / of.n_columns;
    int64 column = (int64)epoch * of.n_columns + pixel % of.n_columns, row = epoch * (of.n_pixels / of.n_columns) + y;
    const float* c = of.coefficients + 4 * (row * of.n_pieces + of.piece[column]);
    float offset = of.offset[column];
    return c[0] + offset * (c[1] + offset * (c[2] + offset * c[3]));
}

extern "C" __global__ void background_level(const float* __restrict__ coefficients, const int* __restrict__ piece,
                                            const float* __restrict__ offset, float* __restrict__ level, int n_rows,
                                            int n_columns, int n_pieces) {
    Splines splines = {coefficients, piece, offset, n_pieces, n_columns, (int64)n_rows * n_columns};
    if (thread_number() >= splines.n_pixels) return;
    int pixel = (int)thread_number();
    level[blockIdx.y * splines.n_pixels + pixel] = level_at(splines, blockIdx.y, pixel);
}

// (image - level) / sqrt(variance) of the pixels that count, +inf for the others.
extern "C" __global__ void background_residual(const float* __restrict__ image, const float* __restrict__ variance,
                                               const int* __restrict__ mask, const float* __restrict__ coefficients,
                                               const int* __restrict__ piece, const float* __restrict__ offset,
                                               float* __restrict__ residual, int bits, int n_rows, int n_columns,
                                               int n_pieces, int64 image_stride, int64 variance_stride,
                                               int64 mask_stride) {
    Splines splines = {coefficients, piece, offset, n_pieces, n_columns, (int64)n_rows * n_columns};
    if (thread_number() >= splines.n_pixels) return;
    int pixel = (int)thread_number(), epoch = blockIdx.y;
    float value = image[epoch * image_stride + pixel] - level_at(splines, epoch, pixel);
    float spread = variance[epoch * variance_stride + pixel];
    bool good = (mask[epoch * mask_stride + pixel] & bits) == 0 && is_finite(value) && spread > 0 && is_finite(spread);
    residual[epoch * splines.n_pixels + pixel] = good ? value / sqrtf(spread) : infinity();
}
