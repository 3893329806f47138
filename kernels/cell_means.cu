// Clipped mean of every background cell of k planes: images (k, y, x) float32, masks (k, y, x) int32.
//
// A block owns a cell: the rows y_edges[i] to y_edges[i + 1] and the columns x_edges[j] to x_edges[j + 1] of a plane.
// It finds median and quartiles by radix selection (as in plane_statistics.cu, with counts in shared memory) and clips
// about them, then about the clipped mean. The first KEPT pixels stay in shared memory, which is all of a cell of
// 32 x 32; those of a larger cell are read again each time. Masked pixels are +inf; only finite values count.
//
// Macro: BLOCK, threads.

const int KEPT = 1024;
const int RANKS = 6; // two neighbouring elements for each quartile

struct Cell {
    const float* image; // of its plane
    const int* mask;
    int bits, n_columns, y, x, width, size;
    const float* kept;
};

__device__ inline float read_pixel(const Cell& cell, int i) {
    const int64 pixel = (int64)(cell.y + i / cell.width) * cell.n_columns + cell.x + i % cell.width;
    return (cell.mask[pixel] & cell.bits) == 0 ? cell.image[pixel] : infinity();
}

__device__ inline float sample(const Cell& cell, int i) { return i < KEPT ? cell.kept[i] : read_pixel(cell, i); }

// The quartiles; gives how many samples count. All threads of the block.
__device__ inline int find_quartiles(const Cell& cell, double* quartiles) {
    __shared__ unsigned counts[RANKS * 256], groups[RANKS * 16], prefixes[RANKS], rests[RANKS], n;
    const int rank = threadIdx.x;
    if (rank < RANKS) prefixes[rank] = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < RANKS * 256; i += BLOCK) counts[i] = 0;
        __syncthreads();
        unsigned prefix[RANKS];
        for (int r = 0; r < RANKS; r++) prefix[r] = prefixes[r];
        for (int i = threadIdx.x; i < cell.size; i += BLOCK) {
            const int place = digit_place(prefix, sample(cell, i), shift);
            if (place >= 0) atomicAdd(&counts[place], 1u);
        }
        __syncthreads();
        if (threadIdx.x < RANKS * 16) groups[threadIdx.x] = group_count(counts, threadIdx.x);
        __syncthreads();
        if (shift == 24 && rank < RANKS) {
            unsigned total = 0;
            for (int group = 0; group < 16; group++) total += groups[group];
            const unsigned below = rank_below(0.25 * (rank / 2 + 1), total);
            rests[rank] = rank % 2 && below + 1 < total ? below + 1 : below;
            if (rank == 0) n = total;
        }
        unsigned found = 0;
        if (rank < RANKS) {
            int first = 0;
            while (prefixes[first] != prefixes[rank]) first++;
            found = prefixes[rank] | pick_digit(counts + 256 * first, groups + 16 * first, &rests[rank]) << shift;
        }
        __syncthreads(); // all have read the prefixes
        if (rank < RANKS) prefixes[rank] = found;
        __syncthreads();
    }
    if (rank < 3) {
        quartiles[rank] = linear_quantile(0.25 * (rank + 1), n, key_value(prefixes[2 * rank]),
                                          key_value(prefixes[2 * rank + 1]));
    }
    __syncthreads();
    return n;
}

// Blocks (cell along x, cell along y, plane); means (plane, cell y, cell x), NaN where nothing stays.
extern "C" __global__ void cell_means(const float* __restrict__ images, const int* __restrict__ masks, int bits,
                                      const int* __restrict__ y_edges, const int* __restrict__ x_edges, int n_rows,
                                      int n_columns, double sigma, double first_sigma, int iterations,
                                      double* __restrict__ means) {
    __shared__ float kept[KEPT];
    __shared__ double quartiles[3], sums[BLOCK], squares[BLOCK];
    __shared__ int numbers[BLOCK];
    const int64 plane = (int64)blockIdx.z * n_rows * n_columns;
    const int y = y_edges[blockIdx.y], x = x_edges[blockIdx.x], width = x_edges[blockIdx.x + 1] - x;
    const int size = (y_edges[blockIdx.y + 1] - y) * width;
    const Cell cell = {images + plane, masks + plane, bits, n_columns, y, x, width, size, kept};
    for (int i = threadIdx.x; i < size && i < KEPT; i += BLOCK) kept[i] = read_pixel(cell, i);
    const int n = find_quartiles(cell, quartiles); // a thread reads what it has itself put in `kept`
    const double origin = quartiles[1], first_width = first_sigma * (quartiles[2] - quartiles[0]);
    double centre = origin, variance = 0;
    for (int round = 0; round < iterations; round++) {
        const double reach = clip_width(round == 0, first_width, sigma, variance, n);
        Kept stays = {};
        for (int i = threadIdx.x; i < size; i += BLOCK) stays.take(sample(cell, i), centre, reach, origin);
        sums[threadIdx.x] = stays.sum;
        squares[threadIdx.x] = stays.square;
        numbers[threadIdx.x] = stays.number;
        sum_block(threadIdx.x, BLOCK, sums, squares, numbers);
        __syncthreads();
        centre = mean_of(origin, sums[0], numbers[0]);
        variance = variance_of(sums[0], squares[0], numbers[0]);
        __syncthreads(); // before the next round writes there
    }
    if (threadIdx.x == 0) means[((int64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = centre;
}
