// Byte order and width of what a FITS file holds, whose numbers begin with their highest byte.
//
// Flat arrays of n items. A thread owns an item, and reads it before it writes it, so that input and output may be the
// same memory: hence no __restrict__ where both have one width.

__device__ inline unsigned short swapped(unsigned short x) { return (unsigned short)(x << 8 | x >> 8); }

__device__ inline word swapped(word x) {
    return x << 24 | (x & 0xff00u) << 8 | (x >> 8 & 0xff00u) | x >> 24;
}

__device__ inline unsigned long long swapped(unsigned long long x) {
    return (unsigned long long)swapped((word)x) << 32 | swapped((word)(x >> 32));
}

template <typename T> __device__ inline void swap(const T* x, T* out, int64 n) {
    int64 i = thread_number();
    if (i < n) out[i] = swapped(x[i]);
}

extern "C" __global__ void swap_2(const unsigned short* x, unsigned short* out, int64 n) { swap(x, out, n); }
extern "C" __global__ void swap_4(const word* x, word* out, int64 n) { swap(x, out, n); }
extern "C" __global__ void swap_8(const unsigned long long* x, unsigned long long* out, int64 n) { swap(x, out, n); }

// Masks of which the lower half was sent alone.
extern "C" __global__ void widen_16(const unsigned short* __restrict__ x, int* __restrict__ out, int64 n) {
    int64 i = thread_number();
    if (i < n) out[i] = x[i];
}
