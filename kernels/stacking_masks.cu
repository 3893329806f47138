// Masks as the final stack uses them, and in how many epochs a pixel counts. fallback/stacking.py is the definition.
//
// mask is (epoch, y, x), flags are (epoch, y, word), rows contiguous, any distance between epochs. A thread owns a
// pixel and walks the epochs: every flag that is set turns its mask into `mask & keep | add`, in order; then the mask
// is counted and loses the bits that are to go. The lanes of a warp read one word or two of each kind of flags.
//
// Macro: N_EDITS, kinds of flags, 0 to 3; the pointers beyond are not looked at.

__device__ inline int edited(int bits, word flags, int x, int keep, int add) {
    return flags >> (x & 31) & 1u ? (bits & keep) | add : bits;
}

extern "C" __global__ void stacking_masks(const int* __restrict__ mask, int64 mask_stride,
                                          const word* __restrict__ flags0, int64 stride0, int keep0, int add0,
                                          const word* __restrict__ flags1, int64 stride1, int keep1, int add1,
                                          const word* __restrict__ flags2, int64 stride2, int keep2, int add2,
                                          int counted, int left, int n_epochs, int n_pixels, int n_columns, int n_words,
                                          int* __restrict__ masks, int* __restrict__ n_image) {
    if (thread_number() >= n_pixels) return;
    int pixel = (int)thread_number(), y = pixel / n_columns, x = pixel - y * n_columns;
    int64 at = (int64)y * n_words + x / 32;
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
        masks[(int64)epoch * n_pixels + pixel] = bits & left;
    }
    n_image[pixel] = count;
}
