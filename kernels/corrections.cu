// Corrections of half-plane spectra (n, ny, nx / 2 + 1), and what else is made of the kernels' transforms.
//
// Stamps come as the transforms of their rows (1 or n, height, nx / 2 + 1); their origin is row height / 2. The
// transform of the columns is summed up by the thread that needs it, for a frequency in y and its negative at once:
// rows at equal distances from the origin come in pairs, whose sums go with cosines and make A, and whose differences
// go with sines and make B. The transform is A - iB at a frequency and A + iB at its negative.
//
// Macros: REAL, of the spectra; SCORE_FLOOR, below which a pre-convolution's power is rounding noise; BLOCK_X and
// BLOCK_Y, threads; STEPS, frequencies in y of a thread.

template <typename T> struct alignas(2 * sizeof(T)) Complex {
    T re, im;
};

// Squared modulus at a frequency in y, and at its negative.
struct Power {
    double at, at_negative;
};

// `rows` points to the frequency's column in the first row. roots[2 k], roots[2 k + 1] is exp(-2 pi i k / ny).
__device__ inline Power stamp_power(const Complex<double>* rows, int height, int n_columns,
                                    const Complex<double>* roots, int y, int ny) {
    const Complex<double>* centre = rows + (int64)(height / 2) * n_columns;
    Complex<double> a = *centre, b = {0, 0};
    int turn = 0;
    for (int dy = 1; dy <= height / 2; ++dy) {
        turn += y;
        if (turn >= ny) turn -= ny;
        const Complex<double> below = centre[-(int64)dy * n_columns], root = roots[turn];
        Complex<double> above = {0, 0};
        if (dy <= (height - 1) / 2) above = centre[(int64)dy * n_columns];
        a.re += (above.re + below.re) * root.re;
        a.im += (above.im + below.im) * root.re;
        b.re -= (above.re - below.re) * root.im;
        b.im -= (above.im - below.im) * root.im;
    }
    const double re = a.re + b.im, im = a.im - b.re, negative_re = a.re - b.im, negative_im = a.im + b.re;
    return {re * re + im * im, negative_re * negative_re + negative_im * negative_im};
}

// The correction at one frequency, and what |c1|^2 and |c2|^2 are there.
struct Factor {
    double value, first, second;
};

__device__ inline Factor factor_of(const double* level, double k2, bool is_score, double p2) {
    if (is_score && p2 < SCORE_FLOOR) p2 = SCORE_FLOOR;
    const double ratio = level[2] / ((is_score ? level[1] * k2 / p2 : level[1] * k2) + level[0]);
    if (!is_score) return {sqrt(ratio), ratio, k2 * ratio};
    return {ratio, ratio * ratio * p2, k2 * (ratio * ratio)};
}

// Multiplies spectra with their corrections, writes the corrections, or both; one of the two may be null. `levels` are
// the variances and the target, (n, 3); `sums` (n, 2, blocks of an image) what the frequencies of a block add to the
// means of |c1|^2 and |c2|^2, times nx ny. A thread owns the frequencies y and ny - y of one column, for STEPS y.
extern "C" __global__ void correct_spectra(REAL* __restrict__ spectra, double* __restrict__ corrections,
                                           double* __restrict__ sums, const double* __restrict__ levels,
                                           const double* __restrict__ kernels, int n_kernels, int kernel_height,
                                           const double* __restrict__ preconvolution, int preconvolution_height,
                                           const double* __restrict__ roots, int ny, int nx) {
    __shared__ double firsts[BLOCK_X * BLOCK_Y], seconds[BLOCK_X * BLOCK_Y];
    const int image = blockIdx.z, n_columns = nx / 2 + 1, x = blockIdx.x * BLOCK_X + threadIdx.x;
    const int thread = threadIdx.y * BLOCK_X + threadIdx.x;
    const bool is_score = preconvolution_height > 0;
    const double column_weight = x == 0 || 2 * x == nx ? 1 : 2;
    const Complex<double>* rows = (const Complex<double>*)kernels;
    const Complex<double>* turns = (const Complex<double>*)roots;
    if (n_kernels > 1) rows += (int64)image * kernel_height * n_columns;
    double first = 0, second = 0;
    for (int step = 0; step < STEPS; ++step) {
        const int y = (blockIdx.y * STEPS + step) * BLOCK_Y + threadIdx.y;
        if (x >= n_columns || y > ny / 2) continue;
        const Power k2 = stamp_power(rows + x, kernel_height, n_columns, turns, y, ny);
        Power p2 = {1, 1};
        if (is_score) {
            const Complex<double>* stamp = (const Complex<double>*)preconvolution + x;
            p2 = stamp_power(stamp, preconvolution_height, n_columns, turns, y, ny);
        }
        for (int sign = 0; sign < 2; ++sign) {
            if (sign == 1 && (y == 0 || 2 * y == ny)) continue; // its own negative
            const Factor factor = factor_of(levels + 3 * image, sign ? k2.at_negative : k2.at, is_score,
                                            sign ? p2.at_negative : p2.at);
            const int64 bin = ((int64)image * ny + (sign ? ny - y : y)) * n_columns + x;
            if (corrections) corrections[bin] = factor.value;
            if (spectra) {
                Complex<REAL>* place = (Complex<REAL>*)spectra + bin;
                const Complex<REAL> value = *place;
                *place = {(REAL)(value.re * factor.value), (REAL)(value.im * factor.value)};
            }
            first += column_weight * factor.first;
            second += column_weight * factor.second;
        }
    }
    firsts[thread] = first;
    seconds[thread] = second;
    sum_block(thread, BLOCK_X * BLOCK_Y, firsts, seconds);
    if (thread != 0) return;
    const int n_blocks = gridDim.x * gridDim.y;
    double* sum = sums + (int64)image * 2 * n_blocks + blockIdx.y * gridDim.x + blockIdx.x;
    sum[0] = firsts[0];
    sum[n_blocks] = seconds[0];
}

// Stamps (1 or n, height, width) convolved with what corrections do to a single pixel: `responses` (n, height,
// 2 width - 1) at the lags 0 to height - 1 in y and -(width - 1) to width - 1 in x, which mirror those at the negative
// ones. A thread owns a pixel.
extern "C" __global__ void convolve_stamps(const double* __restrict__ responses, const double* __restrict__ stamps,
                                           int n_stamps, int height, int width, double* __restrict__ results) {
    const int pixel = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y, n_lags = 2 * width - 1;
    if (pixel >= height * width) return;
    const int y = pixel / width, x = pixel % width;
    const double* response = responses + (int64)image * height * n_lags + width - 1;
    const double* stamp = stamps + (n_stamps > 1 ? (int64)image * height * width : 0);
    double sum = 0;
    for (int row = 0; row < height; ++row) {
        const double* lags = response + (int64)abs(y - row) * n_lags;
        const int sign = y < row ? -1 : 1;
        for (int column = 0; column < width; ++column) sum += stamp[row * width + column] * lags[sign * (x - column)];
    }
    results[(int64)image * height * width + pixel] = sum;
}
