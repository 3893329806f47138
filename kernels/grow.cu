// Grows each plane's flags by a disc, dx^2 + dy^2 <= r^2, or a diamond, |dx| + |dy| <= r, cut at the border.
//
// words (k, y, n_words) as in flags.cu; radii (k,), each plane its own. The result is a union over dy: the row at
// distance dy, widened by the stencil's half width there. A thread owns a word of the result.

// Which planes hold a flag at all. The plain look first keeps a full plane from queueing at one address.
extern "C" __global__ void mark_planes(const word* __restrict__ words, unsigned int* present, int words_per_plane,
                                       int n) {
    int64 number = thread_number();
    if (number >= n || words[number] == 0) return;
    unsigned int* mark = &present[(int)number / words_per_plane];
    if (*mark == 0) atomicOr(mark, 1u);
}

// The bits within `width` of a set one, inside one word. A step is no longer than what is already widened, plus one:
// with a longer one, a run that the end of the word cuts in half would leave a hole.
__device__ inline word widen(word bits, int width) {
    for (int done = 0; done < width && done < 31;) {
        int step = min(done + 1, width - done);
        bits |= bits << step | bits >> step;
        done += step;
    }
    return bits;
}

// Word j of a row widened by `width`, any width. From the other words of the row only the nearest set column on
// either side matters: what reaches into word j from farther away covers less of it.
__device__ inline word widened_row(const word* row, int j, int n_words, int width) {
    word grown = widen(row[j], width);
    for (int d = 1; d <= j && 32 * d - 31 <= width; ++d) {
        word left = row[j - d];
        if (left == 0) continue;
        int last = width - 32 * d + 31 - __clz(left);
        if (last >= 0) grown |= (2u << min(last, 31)) - 1u;
        break;
    }
    for (int d = 1; d < n_words - j && 32 * d - 31 <= width; ++d) {
        word right = row[j + d];
        if (right == 0) continue;
        int first = 32 * d - width + __ffs(right) - 1;
        if (first <= 31) grown |= 0xffffffffu << max(first, 0);
        break;
    }
    return grown;
}

extern "C" __global__ void grow_flags(const word* __restrict__ words, const int* __restrict__ radii,
                                      const unsigned int* __restrict__ present, word* __restrict__ out, int disc,
                                      int n_rows, int n_columns, int n_words, int n) {
    int64 number = thread_number();
    if (number >= n) return;
    int j = (int)number % n_words, y = (int)number / n_words % n_rows, plane = (int)number / n_words / n_rows;
    int behind = (j + 1) * 32 - n_columns; // columns of this word that the plane does not have
    word inside = behind > 0 ? 0xffffffffu >> behind : 0xffffffffu;
    const word* row = words + (number - j);
    int64 radius = present[plane] ? radii[plane] : -1, width = radius; // nothing there: not one turn of the loop
    word grown = 0;
    for (int dy = 0; dy <= radius && dy < n_rows && grown != inside; ++dy) {
        if (!disc) width = radius - dy;
        while (width * width + (int64)dy * dy > radius * radius) --width;
        if (y >= dy) grown |= widened_row(row - (int64)dy * n_words, j, n_words, (int)width);
        if (y + dy < n_rows) grown |= widened_row(row + (int64)dy * n_words, j, n_words, (int)width);
        grown &= inside;
    }
    out[number] = grown;
}
