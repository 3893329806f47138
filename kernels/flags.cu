// Yes-or-no planes as bits: packing, unpacking, counting, painting, looking up.
//
// words (k, y, n_words): bit i of word j of a row is column 32 j + i; bits behind the last column are 0, and every
// kernel that writes words keeps them so. `row` numbers the rows of all k planes in one sequence.

const int COLUMNS_PER_WORD = 32; // also the lanes of a warp: one warp reads the columns of one word

// A warp owns a word; its lanes look at one column each and vote.
extern "C" __global__ void pack_flags(const bool* __restrict__ planes, word* __restrict__ words, int n_columns,
                                      int n_words, int n) {
    int64 thread = thread_number();
    int64 number = thread / COLUMNS_PER_WORD;
    int lane = (int)(thread % COLUMNS_PER_WORD);
    bool flag = false; // no return before the vote: all 32 lanes must reach it
    if (number < n) {
        int64 row = (int)number / n_words;
        int column = (int)number % n_words * COLUMNS_PER_WORD + lane;
        flag = column < n_columns && planes[row * n_columns + column];
    }
    word votes = __ballot_sync(0xffffffffu, flag);
    if (number < n && lane == 0) words[number] = votes;
}

// A thread owns a pixel of one plane.
extern "C" __global__ void unpack_flags(const word* __restrict__ words, bool* __restrict__ planes, int n_columns,
                                        int n_words, int n) {
    int64 pixel = thread_number();
    if (pixel >= n) return;
    int row = (int)pixel / n_columns, column = (int)pixel % n_columns;
    planes[pixel] = words[(int64)row * n_words + column / COLUMNS_PER_WORD] >> column % COLUMNS_PER_WORD & 1u;
}

// A thread owns a pixel and walks the k planes; a warp reads one or two words per plane.
extern "C" __global__ void add_flags(const word* __restrict__ words, int* __restrict__ out, int n_planes,
                                     int n_columns, int n_words, int words_per_plane, int n) {
    int64 pixel = thread_number();
    if (pixel >= n) return;
    int row = (int)pixel / n_columns, column = (int)pixel % n_columns;
    const word* here = words + (int64)row * n_words + column / COLUMNS_PER_WORD;
    int bit = column % COLUMNS_PER_WORD, count = 0;
    for (int plane = 0; plane < n_planes; ++plane) count += here[(int64)plane * words_per_plane] >> bit & 1u;
    out[pixel] += count;
}

// A thread owns a word of the result and walks the k planes.
extern "C" __global__ void any_flag(const word* __restrict__ words, word* __restrict__ out, int n_planes,
                                    int words_per_plane) {
    int64 number = thread_number();
    if (number >= words_per_plane) return;
    word any = 0;
    for (int plane = 0; plane < n_planes; ++plane) any |= words[(int64)plane * words_per_plane + number];
    out[number] = any;
}

// A thread owns a stretch of listed pixels that lie in one word: the thread of its first pixel sets them all, the
// others return. In an ascending list a word is one stretch; the atomic makes any other order come out right too.
extern "C" __global__ void paint_flags(const int* __restrict__ pixels, word* __restrict__ words, int n_columns,
                                       int n_words, int n) {
    int64 first = thread_number();
    if (first >= n) return;
    int row = pixels[first] / n_columns, j = pixels[first] % n_columns / COLUMNS_PER_WORD;
    int begin = row * n_columns + j * COLUMNS_PER_WORD; // flat index of the word's first column
    int end = begin + min(COLUMNS_PER_WORD, n_columns - j * COLUMNS_PER_WORD);
    if (first > 0 && pixels[first - 1] >= begin && pixels[first - 1] < end) return;
    word bits = 0;
    for (int64 i = first; i < n && pixels[i] >= begin && pixels[i] < end; ++i) bits |= 1u << (pixels[i] - begin);
    atomicOr(&words[(int64)row * n_words + j], bits);
}

// A thread owns a listed pixel.
extern "C" __global__ void take_flags(const word* __restrict__ words, const int* __restrict__ pixels,
                                      bool* __restrict__ flags, int n_columns, int n_words, int n) {
    int64 i = thread_number();
    if (i >= n) return;
    int row = pixels[i] / n_columns, column = pixels[i] % n_columns;
    flags[i] = words[(int64)row * n_words + column / COLUMNS_PER_WORD] >> column % COLUMNS_PER_WORD & 1u;
}
