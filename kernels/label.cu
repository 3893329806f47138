// 8-connected footprints of every plane of a stack, numbered in raster order of their first pixel.
//
// Union-find on the set pixels only. words (k, y, n_words) as in flags.cu; a set pixel's rank is how many set pixels
// lie before it in the stack, and ends[word] is how many lie in all words up to and including this one. parents[rank]
// is the rank of a pixel of the same footprint and never larger than rank, so that a footprint's root, its own
// parent, is its first pixel. Order of launches: count_bits, (cumsum), list_pixels, unite_rows, flatten, (cumsum),
// number_pixels. Words are owned by a thread each in the first three, set pixels in the last two.

const word LAST_BIT = 0x80000000u;

extern "C" __global__ void count_bits(const word* __restrict__ words, int* __restrict__ counts, int n) {
    int64 number = thread_number();
    if (number < n) counts[number] = __popc(words[number]);
}

// Flat indices of the set pixels, and row chains: a pixel hangs on the first pixel of its run in the word, and this
// one, if the run comes from the word before, on the last pixel there.
extern "C" __global__ void list_pixels(const word* __restrict__ words, const int* __restrict__ ends,
                                       int* __restrict__ pixels, int* __restrict__ parents, int n_columns, int n_words,
                                       int n) {
    int64 number = thread_number();
    if (number >= n || words[number] == 0) return;
    word bits = words[number];
    int j = (int)number % n_words;
    int pixel = (int)number / n_words * n_columns + 32 * j;
    int rank = ends[number] - __popc(bits), head = rank;
    bool goes_on = j > 0 && (words[number - 1] & LAST_BIT);
    for (int bit = 0; bit < 32; ++bit) {
        if (bits >> bit & 1u) {
            pixels[rank] = pixel + bit;
            parents[rank] = bit == 0 && goes_on ? rank - 1 : head;
            ++rank;
        } else {
            head = rank;
        }
    }
}

__device__ inline int root_of(const int* parents, int rank) {
    for (int parent = parents[rank]; parent != rank; parent = parents[rank]) rank = parent;
    return rank;
}

// Hangs the larger root on the smaller. If another thread was faster, the root is none any more: what it hangs on now,
// and not it, is then united with the smaller, or that thread's union would be lost. `high` falls with every turn.
__device__ inline void unite(int* parents, int a, int b) {
    while (true) {
        a = root_of(parents, a);
        b = root_of(parents, b);
        if (a == b) return;
        int low = min(a, b), high = max(a, b);
        int before = atomicMin(&parents[high], low);
        if (before == high) return;
        a = low;
        b = before;
    }
}

// Unites each row with the row above in the same plane, only where the row chains do not already imply it:
// with the pixel above, unless both have a left neighbour, which does the same for them;
// with the one above left, unless the pixel above or the left one is set, for they touch both;
// with the one above right, unless the pixel above or the right one is set, likewise.
extern "C" __global__ void unite_rows(const word* __restrict__ words, const int* __restrict__ ends, int* parents,
                                      int n_rows, int n_words, int n) {
    int64 number = thread_number();
    if (number >= n || words[number] == 0) return;
    int j = (int)number % n_words, y = (int)number / n_words % n_rows;
    if (y == 0) return;
    const word* here = words + number;
    const word* up = here - n_words;
    bool first = j == 0, last = j == n_words - 1;
    word bits = *here, above = *up;
    word left = bits << 1 | (first ? 0u : here[-1] >> 31), above_left = above << 1 | (first ? 0u : up[-1] >> 31);
    word right = bits >> 1 | (last ? 0u : here[1] << 31), above_right = above >> 1 | (last ? 0u : up[1] << 31);
    word with_above = bits & above & ~(left & above_left);
    word with_left = bits & ~above & above_left & ~left;
    word with_right = bits & ~above & above_right & ~right;
    for (word todo = with_above | with_left | with_right; todo; todo &= todo - 1) {
        int bit = __ffs(todo) - 1;
        int rank = ends[number] - __popc(bits >> bit);
        // Set pixels before the column in the row above: the rank of the pixel above, or, if this one is not set, of
        // the one above right; one less is that of the one above left. In neighbouring words too.
        int before = ends[number - n_words] - __popc(above >> bit);
        if ((with_above | with_right) >> bit & 1u) unite(parents, rank, before);
        if (with_left >> bit & 1u) unite(parents, rank, before - 1);
    }
}

// Every pixel straight on its root. Others may already walk over what is written here; they get to the same root.
extern "C" __global__ void flatten(int* parents, int* __restrict__ is_root, int n) {
    int64 rank = thread_number();
    if (rank >= n) return;
    int root = root_of(parents, (int)rank);
    parents[rank] = root;
    is_root[rank] = root == (int)rank;
}

// numbers[rank] is how many roots there are up to this rank.
extern "C" __global__ void number_pixels(const int* __restrict__ parents, const int* __restrict__ numbers,
                                         int* __restrict__ labels, int n) {
    int64 rank = thread_number();
    if (rank < n) labels[rank] = numbers[parents[rank]];
}
