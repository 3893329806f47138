// Order statistics and clipped means of whole planes: samples (k, n) float32, of which those that are finite count.
//
// Linear quantiles want two neighbouring elements of the sorted sample each. Radix selection finds them without a
// sort: four times, `count_digits` counts the next 8 bits of those samples whose key (common.cuh) agrees with a wanted
// element in the bits above, and `pick_digits` walks the counts to the digit that this element has. RANKS elements go
// through together; those that agree so far share the counts of the first of them, so the others' stay 0.
// prefixes (k, RANKS): the bits found, 0 below. rests (k, RANKS): number among the samples with these bits.
// counts (k, RANKS, 256), zero at first.
//
// `sum_kept` and `settle` are one round of the clip. A block owns PIECE samples of one plane, whatever the device, and
// each sum is a tree of one shape: a run equals its repeat.
//
// Macros: BLOCK, threads, but for `pick_digits`; PIECE, a multiple of 4 BLOCK; RANKS, two for each of three fractions.

// The value where it is finite and its pixel has none of `bits`, +inf elsewhere. One thread per sample.
extern "C" __global__ void take_samples(const float* __restrict__ planes, const int* __restrict__ masks, int bits,
                                        float* __restrict__ samples, int64 n) {
    const int64 i = thread_number();
    if (i >= n) return;
    const float value = planes[i];
    samples[i] = is_finite(value) && (masks[i] & bits) == 0 ? value : infinity();
}

// A plane's flag, set at first, is cleared if one of its n values is no NaN. The blocks of a plane leave off once it
// has.
extern "C" __global__ void find_all_nan(const float* __restrict__ planes, int n, bool* flags) {
    const float* plane = planes + (int64)blockIdx.y * n;
    volatile bool* flag = flags + blockIdx.y; // another block may change it
    const int64 piece = (n + (int64)gridDim.x - 1) / gridDim.x; // of each block its own: a border may be NaN for long
    const int64 start = blockIdx.x * piece;
    for (int64 i = start + threadIdx.x; i < n && i < start + piece && *flag; i += blockDim.x) {
        if (plane[i] == plane[i]) *flag = false; // whoever writes, writes the same
    }
}

// Blocks (pieces of a plane, plane). Neighbouring pixels are often alike: a run of one digit is added at once.
extern "C" __global__ void count_digits(const float* __restrict__ samples, int n,
                                        const unsigned* __restrict__ prefixes, int shift, unsigned* counts) {
    __shared__ unsigned here[RANKS * 256];
    const int64 start = (int64)blockIdx.x * PIECE + threadIdx.x;
    const float* plane = samples + (int64)blockIdx.y * n;
    unsigned prefix[RANKS];
    for (int r = 0; r < RANKS; r++) prefix[r] = prefixes[blockIdx.y * RANKS + r];
    for (int i = threadIdx.x; i < RANKS * 256; i += BLOCK) here[i] = 0;
    __syncthreads();
    int place = -1;
    unsigned run = 0;
    for (int64 i = start; i < n && i < start + PIECE; i += 4 * BLOCK) {
        float value[4]; // four loads on their way at a time
        for (int j = 0; j < 4; j++) value[j] = i + j * BLOCK < n ? plane[i + j * BLOCK] : infinity();
        for (int j = 0; j < 4; j++) {
            const int next = digit_place(prefix, value[j], shift);
            if (next != place) {
                if (place >= 0) atomicAdd(&here[place], run);
                place = next;
                run = 0;
            }
            run++;
        }
    }
    if (place >= 0) atomicAdd(&here[place], run);
    __syncthreads();
    for (int i = threadIdx.x; i < RANKS * 256; i += BLOCK) {
        if (here[i]) atomicAdd(&counts[(int64)blockIdx.y * RANKS * 256 + i], here[i]);
    }
}

// A block of RANKS * 16 threads per plane. The first digit (shift 24) also tells how many samples count, and so which
// elements are wanted; with the last (shift 0) the quantiles of the first n_fractions are known.
extern "C" __global__ void pick_digits(const unsigned* __restrict__ counts, double fraction0, double fraction1,
                                       double fraction2, int n_fractions, int shift, unsigned* prefixes,
                                       unsigned* rests, int* n_samples, double* quantiles) {
    __shared__ unsigned groups[RANKS * 16], found[RANKS];
    const int plane = blockIdx.x, rank = threadIdx.x;
    const unsigned* own = counts + (int64)plane * RANKS * 256;
    groups[threadIdx.x] = group_count(own, threadIdx.x);
    __syncthreads();
    const double fraction = rank / 2 == 0 ? fraction0 : rank / 2 == 1 ? fraction1 : fraction2;
    unsigned n = shift < 24 ? n_samples[plane] : 0;
    if (shift == 24) {
        for (int group = 0; group < 16; group++) n += groups[group];
    }
    if (rank < RANKS) {
        const unsigned prefix = prefixes[plane * RANKS + rank];
        int first = 0;
        while (prefixes[plane * RANKS + first] != prefix) first++;
        unsigned rest = rests[plane * RANKS + rank];
        if (shift == 24) {
            const unsigned below = rank_below(fraction, n);
            rest = rank % 2 && below + 1 < n ? below + 1 : below;
        }
        found[rank] = prefix | pick_digit(own + 256 * first, groups + 16 * first, &rest) << shift;
        rests[plane * RANKS + rank] = rest;
    }
    __syncthreads(); // all have read the prefixes
    if (rank < RANKS) prefixes[plane * RANKS + rank] = found[rank];
    if (shift == 24 && rank == 0) n_samples[plane] = n;
    if (shift == 0 && rank % 2 == 0 && rank / 2 < n_fractions) {
        quantiles[plane * n_fractions + rank / 2] =
            linear_quantile(fraction, n, key_value(found[rank]), key_value(found[rank + 1]));
    }
}

// Sums of the deviations from the median, and of their squares, over the samples that a round keeps, and how many
// these are: for each piece of each plane (plane, piece[, 2]). statistics (plane, 3) is what `settle` made of the round
// before.
extern "C" __global__ void sum_kept(const float* __restrict__ samples, int n, const double* __restrict__ quartiles,
                                    const int* __restrict__ n_samples, const double* __restrict__ statistics,
                                    int round, double sigma, double first_sigma, double* __restrict__ piece_sums,
                                    int* __restrict__ piece_numbers) {
    __shared__ double sums[BLOCK], squares[BLOCK];
    __shared__ int numbers[BLOCK];
    const int64 start = (int64)blockIdx.x * PIECE + threadIdx.x;
    const float* plane = samples + (int64)blockIdx.y * n;
    const double* quartile = quartiles + 3 * blockIdx.y;
    const double* before = statistics + 3 * blockIdx.y;
    const double origin = quartile[1], first_width = first_sigma * (quartile[2] - quartile[0]);
    const double centre = round == 0 ? origin : before[0];
    const double width = clip_width(round == 0, first_width, sigma, before[1], n_samples[blockIdx.y]);
    Kept stays = {};
    for (int64 i = start; i < n && i < start + PIECE; i += 4 * BLOCK) {
        float value[4];
        for (int j = 0; j < 4; j++) value[j] = i + j * BLOCK < n ? plane[i + j * BLOCK] : infinity();
        for (int j = 0; j < 4; j++) stays.take(value[j], centre, width, origin);
    }
    sums[threadIdx.x] = stays.sum;
    squares[threadIdx.x] = stays.square;
    numbers[threadIdx.x] = stays.number;
    sum_block(threadIdx.x, BLOCK, sums, squares, numbers);
    if (threadIdx.x) return;
    const int64 piece = (int64)blockIdx.y * gridDim.x + blockIdx.x;
    piece_sums[2 * piece] = sums[0];
    piece_sums[2 * piece + 1] = squares[0];
    piece_numbers[piece] = numbers[0];
}

// Mean, de-biased variance and number of what a round has kept. A block per plane.
extern "C" __global__ void settle(const double* __restrict__ piece_sums, const int* __restrict__ piece_numbers,
                                  int n_pieces, const double* __restrict__ quartiles, double* __restrict__ statistics) {
    __shared__ double sums[BLOCK], squares[BLOCK];
    __shared__ int numbers[BLOCK];
    sums[threadIdx.x] = squares[threadIdx.x] = 0;
    numbers[threadIdx.x] = 0;
    for (int i = threadIdx.x; i < n_pieces; i += BLOCK) {
        const int64 piece = (int64)blockIdx.x * n_pieces + i;
        sums[threadIdx.x] += piece_sums[2 * piece];
        squares[threadIdx.x] += piece_sums[2 * piece + 1];
        numbers[threadIdx.x] += piece_numbers[piece];
    }
    sum_block(threadIdx.x, BLOCK, sums, squares, numbers);
    if (threadIdx.x) return;
    statistics[3 * blockIdx.x] = mean_of(quartiles[3 * blockIdx.x + 1], sums[0], numbers[0]);
    statistics[3 * blockIdx.x + 1] = variance_of(sums[0], squares[0], numbers[0]);
    statistics[3 * blockIdx.x + 2] = numbers[0];
}
