// Windows of a plane (n_rows, n_columns): n parts of height x width pixels. Part i begins at row corners[2 i] and at
// column corners[2 i + 1].
//
// A thread owns pixels of one column of what is written: column number blockIdx.x * blockDim.x + threadIdx.x, the rows
// blockIdx.y, blockIdx.y + gridDim.y, ..., of part blockIdx.z. Neighbouring threads lie along x.
//
// A box of a window is x0, y0, width, height, relative to it.
//
// Macros: BLOCK, threads of the sums; PLANE, SECOND, GRID and RESULT, the types of the plane, of the plane that is
// combined with it, of the padded grids, of the result.

#ifndef PLANE
#define PLANE float
#endif
#ifndef SECOND
#define SECOND float
#endif
#ifndef GRID
#define GRID double
#endif
#ifndef RESULT
#define RESULT float
#endif

// Samples of a statistic: the value where it is finite and its pixel has none of `bits`, else +inf.
extern "C" __global__ void sample_windows(const PLANE* __restrict__ plane, const int* __restrict__ mask, int bits,
                                          const int* __restrict__ corners, int n_columns, int height, int width,
                                          float* __restrict__ samples) {
    const int part = blockIdx.z, x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= width) return;
    for (int y = blockIdx.y; y < height; y += gridDim.y) {
        const int64 pixel = (int64)(corners[2 * part] + y) * n_columns + corners[2 * part + 1] + x;
        const float value = (float)plane[pixel];
        const bool good = is_finite(value) && (mask[pixel] & bits) == 0;
        samples[((int64)part * height + y) * width + x] = good ? value : infinity();
    }
}

// How many of the n pixels of a plane are negative, finite and have none of `bits`; added to `count`.
extern "C" __global__ void count_negative(const PLANE* __restrict__ plane, const int* __restrict__ mask, int bits,
                                          int64 n, unsigned long long* count) {
    unsigned long long found = 0;
    for (int64 pixel = thread_number(); pixel < n; pixel += (int64)gridDim.x * blockDim.x) {
        const PLANE value = plane[pixel];
        if (value < 0 && is_finite(value) && (mask[pixel] & bits) == 0) ++found;
    }
    if (found) atomicAdd(count, found);
}

// Sum and number of the finite pixels in some rows of a window: sums (part, piece, 2). Blocks (piece, part).
extern "C" __global__ void sum_finite(const PLANE* __restrict__ plane, const int* __restrict__ corners, int n_columns,
                                      int height, int width, double* __restrict__ sums) {
    __shared__ double totals[BLOCK], numbers[BLOCK];
    const int part = blockIdx.y;
    double total = 0, number = 0;
    for (int y = blockIdx.x; y < height; y += gridDim.x) {
        const int64 row = (int64)(corners[2 * part] + y) * n_columns + corners[2 * part + 1];
        for (int x = threadIdx.x; x < width; x += BLOCK) {
            const PLANE value = plane[row + x];
            if (!is_finite(value)) continue;
            total += value;
            number += 1;
        }
    }
    totals[threadIdx.x] = total;
    numbers[threadIdx.x] = number;
    sum_block(threadIdx.x, BLOCK, totals, numbers);
    if (threadIdx.x != 0) return;
    double* sum = sums + 2 * ((int64)part * gridDim.x + blockIdx.x);
    sum[0] = totals[0];
    sum[1] = numbers[0];
}

// Means of the finite pixels from those sums, 0 where there is none. A block for each part.
extern "C" __global__ void divide_sums(const double* __restrict__ sums, int n_pieces, double* __restrict__ means) {
    __shared__ double totals[BLOCK], numbers[BLOCK];
    const double* own = sums + 2 * (int64)blockIdx.x * n_pieces;
    double total = 0, number = 0;
    for (int piece = threadIdx.x; piece < n_pieces; piece += BLOCK) {
        total += own[2 * piece];
        number += own[2 * piece + 1];
    }
    totals[threadIdx.x] = total;
    numbers[threadIdx.x] = number;
    sum_block(threadIdx.x, BLOCK, totals, numbers);
    if (threadIdx.x == 0) means[blockIdx.x] = numbers[0] > 0 ? totals[0] / numbers[0] : 0;
}

// Windows in the corners of grids that are zero elsewhere; a pixel that is not finite counts as means[part].
extern "C" __global__ void pad_windows(const PLANE* __restrict__ plane, const int* __restrict__ corners,
                                       const double* __restrict__ means, int n_columns, int height, int width,
                                       int grid_rows, int grid_columns, GRID* __restrict__ grids) {
    const int part = blockIdx.z, x = blockIdx.x * blockDim.x + threadIdx.x;
    if (x >= grid_columns) return;
    for (int y = blockIdx.y; y < grid_rows; y += gridDim.y) {
        GRID padded = 0;
        if (y < height && x < width) {
            const PLANE value = plane[(int64)(corners[2 * part] + y) * n_columns + corners[2 * part + 1] + x];
            padded = is_finite(value) ? (GRID)value : (GRID)means[part];
        }
        grids[((int64)part * grid_rows + y) * grid_columns + x] = padded;
    }
}

// Boxes of grids, times `scale`. Where the plane behind is NaN the result is, and +inf where it is infinite. Results
// are as large as the largest box; what a smaller one leaves is 0.
extern "C" __global__ void crop_windows(const GRID* __restrict__ grids, double scale, int grid_rows, int grid_columns,
                                        const PLANE* __restrict__ plane, const int* __restrict__ corners,
                                        const int* __restrict__ boxes, int n_columns, int height, int width,
                                        RESULT* __restrict__ results) {
    const int part = blockIdx.z, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const int* box = boxes + 4 * part;
    for (int row = blockIdx.y; row < height; row += gridDim.y) {
        RESULT result = 0;
        if (column < box[2] && row < box[3]) {
            const int x = box[0] + column, y = box[1] + row;
            const PLANE behind = plane[(int64)(corners[2 * part] + y) * n_columns + corners[2 * part + 1] + x];
            result = (RESULT)(grids[((int64)part * grid_rows + y) * grid_columns + x] * scale);
            if (!is_finite(behind)) result = behind != behind ? not_a_number() : infinity();
        }
        results[((int64)part * height + row) * width + column] = result;
    }
}

// weights[part] * plane + weights[n + part] * second in boxes of both planes, over divisors[part] if there are any;
// in the plane's type, as NumPy has it. Results as in crop_windows.
extern "C" __global__ void weigh_windows(const PLANE* __restrict__ plane, const SECOND* __restrict__ second,
                                         const double* __restrict__ weights, const double* __restrict__ divisors,
                                         const int* __restrict__ corners, const int* __restrict__ boxes, int n_columns,
                                         int height, int width, RESULT* __restrict__ results) {
    const int part = blockIdx.z, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const int* box = boxes + 4 * part;
    const PLANE weight = (PLANE)weights[part], second_weight = (PLANE)weights[gridDim.z + part];
    for (int row = blockIdx.y; row < height; row += gridDim.y) {
        PLANE sum = 0;
        if (column < box[2] && row < box[3]) {
            const int x = box[0] + column, y = box[1] + row;
            const int64 pixel = (int64)(corners[2 * part] + y) * n_columns + corners[2 * part + 1] + x;
            sum = weight * plane[pixel];
            sum = (PLANE)(sum + second_weight * second[pixel]);
            if (divisors) sum = sum / (PLANE)divisors[part];
        }
        results[((int64)part * height + row) * width + column] = (RESULT)sum;
    }
}
