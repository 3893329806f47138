// Masks as the final stack uses them, in how many epochs a pixel counts, and which samples are used.
// fallback/stacking.py is the definition.
//
// mask and image are (epoch, y, x), flags are (epoch, y, word), rows contiguous, any distance between epochs. A thread
// owns a pixel and walks the epochs: every flag that is set turns its mask into `mask & keep | add`, in order; then the
// mask is counted and loses the bits that are to go. A warp owns a word of a row, reads that word of each kind of flags
// and votes on what is used; its lanes behind the last column do as the last one does, and write nothing.
//
// Macros: N_EDITS, kinds of flags, 0 to 3; WITH_USED. The pointers that these leave out are not looked at.

__device__ inline int edited(int bits, word flags, int x, int keep, int add) {
    return flags >> (x & 31) & 1u ? (bits & keep) | add : bits;
}

extern "C" __global__ void stacking_masks(const int* __restrict__ mask, int64 mask_stride,
                                          const float* __restrict__ image, int64 image_stride,
                                          const word* __restrict__ flags0, int64 stride0, int keep0, int add0,
                                          const word* __restrict__ flags1, int64 stride1, int keep1, int add1,
                                          const word* __restrict__ flags2, int64 stride2, int keep2, int add2,
                                          int counted, int left, int rejected, int n_epochs, int n_rows, int n_columns,
                                          int n_words, int* __restrict__ masks, int* __restrict__ n_image,
                                          word* __restrict__ used) {
    int64 at = thread_number() / 32, words = (int64)n_rows * n_words; // of one epoch
    if (at >= words) return;                                          // the whole warp
    int y = (int)(at / n_words), lane = threadIdx.x & 31, column = (int)(at - (int64)y * n_words) * 32 + lane;
    bool is_inside = column < n_columns;
    int x = is_inside ? column : n_columns - 1, pixel = y * n_columns + x, n_pixels = n_rows * n_columns;
    int count = 0;
#pragma unroll 4
    for (int epoch = 0; epoch < n_epochs; epoch++) {
        int bits = mask[epoch * mask_stride + pixel];
#if N_EDITS > 0
        bits = edited(bits, flags0[epoch * stride0 + at], x, keep0, add0);
#endif
#if N_EDITS > 1
        bits = edited(bits, flags1[epoch * stride1 + at], x, keep1, add1);
#endif
#if N_EDITS > 2
        bits = edited(bits, flags2[epoch * stride2 + at], x, keep2, add2);
#endif
        count += (bits & counted) == 0;
        if (is_inside) masks[(int64)epoch * n_pixels + pixel] = bits & left;
#if WITH_USED
        bool is_used = is_inside && (bits & rejected) == 0 && is_finite(image[epoch * image_stride + pixel]);
        word votes = __ballot_sync(0xffffffffu, is_used);
        if (lane == 0) used[epoch * words + at] = votes;
#endif
    }
    if (is_inside) n_image[pixel] = count;
}
