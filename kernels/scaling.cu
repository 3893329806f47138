// A plane times a number, in float32.
//
// A flat array of n items. A thread owns an item, and reads it before it writes it, so that input and output may be the
// same memory: hence no __restrict__. NaN is passed on, for a product would lose its payload, which the host keeps.

extern "C" __global__ void scale(const float* x, float factor, float* out, int64 n) {
    int64 i = thread_number();
    if (i >= n) return;
    float value = x[i];
    out[i] = value == value ? value * factor : value;
}
