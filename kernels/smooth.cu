// Convolution of a plane with a symmetric kernel along one axis; beyond the edges the plane is 0.
//
// (y, x) planes. A thread owns a pixel. The products are added as SciPy's correlate1d adds them, in float64: the
// middle, then pairs of equal distance from the farthest to the nearest. Neighbours come from cache: a pixel is read
// from memory once.

extern "C" __global__ void smooth(const float* __restrict__ plane, const double* __restrict__ weights,
                                  float* __restrict__ out, int half, int along_x, int n_rows, int n_columns) {
    if (thread_number() >= (int64)n_rows * n_columns) return;
    int pixel = (int)thread_number();
    int at = along_x ? pixel % n_columns : pixel / n_columns, size = along_x ? n_columns : n_rows;
    int step = along_x ? 1 : n_columns;
    double sum = (double)plane[pixel] * weights[half];
    for (int distance = half; distance > 0; distance--) {
        double before = at - distance >= 0 ? (double)plane[pixel - (int64)distance * step] : 0.0;
        double after = at + distance < size ? (double)plane[pixel + (int64)distance * step] : 0.0;
        sum += (before + after) * weights[half - distance];
    }
    out[pixel] = (float)sum;
}
