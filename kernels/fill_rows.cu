// Filling of runs of bad pixels along rows, or along columns if `down`; definition in fallback/filling.py.
//
// (y, x) planes. A line is what runs lie in, a row or a column; `at` is a place in it. Whether places are bad comes as
// words, bit i of word j for place 32 j + i, 0 behind the line's end: flags (y, n_words) of rows, (n_words, x) of
// columns, so that neighbouring threads always read neighbouring words.
//
// Macros: EDGE_RUN and FAR of fallback/filling.py.

// Rows: a warp owns a word; its lanes look at one pixel each and vote.
extern "C" __global__ void flag_bad_in_rows(const int* __restrict__ mask, word* __restrict__ flags, int bits,
                                            int n_rows, int n_columns, int n_words) {
    int number = (int)(thread_number() / 32);
    int64 row = number / n_words;
    int x = number % n_words * 32 + (int)(threadIdx.x % 32);
    bool bad = row < n_rows && x < n_columns && (mask[row * n_columns + x] & bits) != 0;
    word votes = __ballot_sync(0xffffffffu, bad); // no return before it: all 32 lanes must get here
    if (row < n_rows && threadIdx.x % 32 == 0) flags[number] = votes;
}

// Columns: a thread owns a word and walks its 32 pixels; a warp reads 32 neighbouring columns.
extern "C" __global__ void flag_bad_in_columns(const int* __restrict__ mask, word* __restrict__ flags, int bits,
                                               int n_rows, int n_columns, int n_words) {
    int64 number = thread_number();
    if (number >= (int64)n_words * n_columns) return;
    int first = (int)number / n_columns * 32, x = (int)number % n_columns;
    word bad = 0;
    for (int i = 0; i < 32 && first + i < n_rows; ++i)
        if (mask[(int64)(first + i) * n_columns + x] & bits) bad |= 1u << i;
    flags[number] = bad;
}

// The flags of one line, `step` words apart.
struct Line {
    const word* flags;
    int step, n_words, length;
};

__device__ inline bool is_bad(const Line& line, int at) { return line.flags[at / 32 * line.step] >> at % 32 & 1u; }

// The nearest good place before a bad one; -1 if there is none.
__device__ inline int good_before(const Line& line, int at) {
    int j = at / 32;
    word good = ~line.flags[j * line.step] & ((1u << at % 32) - 1);
    while (good == 0 && j > 0) good = ~line.flags[--j * line.step];
    return good ? 32 * j + 31 - __clz((int)good) : -1;
}

// The nearest good place after a bad one; the line's length if there is none.
__device__ inline int good_after(const Line& line, int at) {
    int j = at / 32;
    word good = ~line.flags[j * line.step] & ~((2u << at % 32) - 1); // nothing is left behind bit 31
    while (good == 0 && j < line.n_words - 1) good = ~line.flags[++j * line.step];
    return good ? 32 * j + __ffs((int)good) - 1 : line.length; // the first 0 behind the end is there too
}

// Where a prediction takes a sample from: a pixel of the plane, or one of these.
const int NOTHING = -1, LEVEL = -2;

struct Neighbours {
    int second_left, left, right, second_right;
    const double* weights; // of these four
};

__device__ inline double sample(const float* plane, int source, float level) {
    return source >= 0 ? (double)plane[source] : source == LEVEL ? (double)level : 0.0;
}

__device__ inline float predict(const float* plane, const Neighbours& from, float level) {
    double left = sample(plane, from.left, level), right = sample(plane, from.right, level);
    double value = from.weights[0] * sample(plane, from.second_left, level) + from.weights[1] * left +
                   from.weights[2] * right + from.weights[3] * sample(plane, from.second_right, level);
    if (value == value) return (float)value;
    int n_near = (from.left != NOTHING) + (from.right != NOTHING);
    return (float)((left + right) / max(n_near, 1));
}

__device__ inline float positive(float variance) { return variance > 0 ? variance : infinity(); }

// A thread owns a pixel of all three planes. `weights` are those of fallback/filling.py, `level` is the fallback value.
extern "C" __global__ void fill_runs(const float* __restrict__ image, const float* __restrict__ variance,
                                     const int* __restrict__ mask, const word* __restrict__ flags,
                                     const double* __restrict__ weights, const float* __restrict__ level,
                                     float* __restrict__ image_out, float* __restrict__ variance_out,
                                     int* __restrict__ mask_out, int interpolated, int level_at_edge, int down,
                                     int n_rows, int n_columns, int n_words) {
    if (thread_number() >= (int64)n_rows * n_columns) return;
    int pixel = (int)thread_number(), y = pixel / n_columns, x = pixel % n_columns;
    int at = down ? y : x, pixel_step = down ? n_columns : 1;
    Line line = down ? Line{flags + x, n_columns, n_words, n_rows}
                     : Line{flags + (int64)y * n_words, 1, n_words, n_columns};
    if (!is_bad(line, at)) {
        image_out[pixel] = image[pixel];
        variance_out[pixel] = positive(variance[pixel]);
        mask_out[pixel] = mask[pixel];
        return;
    }
    mask_out[pixel] = mask[pixel] | interpolated;
    int before = good_before(line, at), after = good_after(line, at);
    bool from_start = before < 0, to_end = after >= line.length;
    bool far_out = level_at_edge && ((from_start && after - at > EDGE_RUN) || (to_end && at - before > EDGE_RUN));
    if ((from_start && to_end) || far_out) {
        image_out[pixel] = *level;
        variance_out[pixel] = positive(*level);
        return;
    }
    // What has taken the level is a good neighbour for the rest of its border run.
    int last_good = from_start && level_at_edge ? max(after - EDGE_RUN - 1, -1) : before;
    int next_good = to_end && level_at_edge ? min(before + EDGE_RUN + 1, line.length) : after;
    bool left = last_good >= 0, right = next_good < line.length;
    bool second_left = left && last_good > 0 && (from_start || !is_bad(line, last_good - 1));
    bool second_right = right && next_good + 1 < line.length && (to_end || !is_bad(line, next_good + 1));
    int distance_left = left ? min(at - last_good, FAR) : 1, distance_right = right ? min(next_good - at, FAR) : 1;
    int kind = (left + second_left) * 3 + right + second_right;
    int origin = pixel - at * pixel_step; // of the line
    Neighbours from;
    from.second_left = !second_left ? NOTHING : from_start ? LEVEL : origin + (last_good - 1) * pixel_step;
    from.left = !left ? NOTHING : from_start ? LEVEL : origin + last_good * pixel_step;
    from.right = !right ? NOTHING : to_end ? LEVEL : origin + next_good * pixel_step;
    from.second_right = !second_right ? NOTHING : to_end ? LEVEL : origin + (next_good + 1) * pixel_step;
    from.weights = weights + 4 * ((kind * (FAR + 1) + distance_left) * (FAR + 1) + distance_right);
    image_out[pixel] = predict(image, from, *level);
    variance_out[pixel] = positive(predict(variance, from, *level));
}
