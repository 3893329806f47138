// Merges cells into the planes of a mosaic: image, variance and how many cells had a valid pixel, each (y, x).
//
// A pixel of a cell is valid if its image times its variance is not NaN. Valid pixels are added, or, with `copy`, take
// the place of what is there; cells count in their order. `cells` (m, 7) says where cell i lies and where its pixels
// are: x0, y0, width, height in the mosaic, and x, y in plane number p of `images` and `variances` (plane, cell_rows,
// cell_columns).
//
// A thread owns a pixel of the mosaic and walks the cells of its tile of TILE x TILE pixels: `members` from
// starts[b] to starts[b + 1], ascending, for tile number tiles[b] in raster order. Blocks (b, part of the tile).
//
// Macros: TILE; BLOCK_X and BLOCK_Y, threads; IMAGE, VARIANCE, CELL_IMAGE, CELL_VARIANCE and COUNT, the types.

#ifndef IMAGE
#define IMAGE float
#endif
#ifndef VARIANCE
#define VARIANCE float
#endif
#ifndef CELL_IMAGE
#define CELL_IMAGE float
#endif
#ifndef CELL_VARIANCE
#define CELL_VARIANCE float
#endif
#ifndef COUNT
#define COUNT unsigned short
#endif

extern "C" __global__ void merge_cells(const CELL_IMAGE* __restrict__ images,
                                       const CELL_VARIANCE* __restrict__ variances, const int* __restrict__ cells,
                                       const int* __restrict__ tiles, const int* __restrict__ starts,
                                       const int* __restrict__ members, int cell_rows, int cell_columns, int copy,
                                       int n_rows, int n_columns, IMAGE* __restrict__ image,
                                       VARIANCE* __restrict__ variance, COUNT* __restrict__ count) {
    const int tile = tiles[blockIdx.x], tiles_in_row = (n_columns + TILE - 1) / TILE;
    const int x = tile % tiles_in_row * TILE + blockIdx.y % (TILE / BLOCK_X) * BLOCK_X + threadIdx.x;
    const int y = tile / tiles_in_row * TILE + blockIdx.y / (TILE / BLOCK_X) * BLOCK_Y + threadIdx.y;
    if (x >= n_columns || y >= n_rows) return;
    const int64 pixel = (int64)y * n_columns + x;
    IMAGE merged = image[pixel];
    VARIANCE merged_variance = variance[pixel];
    int n_merged = 0;
    for (int member = starts[blockIdx.x]; member < starts[blockIdx.x + 1]; ++member) {
        const int* cell = cells + 7 * members[member];
        const int column = x - cell[0], row = y - cell[1];
        if (column < 0 || column >= cell[2] || row < 0 || row >= cell[3]) continue;
        const int64 source = ((int64)cell[6] * cell_rows + cell[5] + row) * cell_columns + cell[4] + column;
        const CELL_IMAGE value = images[source];
        const CELL_VARIANCE value_variance = variances[source];
        const auto product = value * value_variance;
        if (product != product) continue;
        merged = (IMAGE)(copy ? value : merged + value);
        merged_variance = (VARIANCE)(copy ? value_variance : merged_variance + value_variance);
        ++n_merged;
    }
    if (n_merged == 0) return;
    image[pixel] = merged;
    variance[pixel] = merged_variance;
    if (count) count[pixel] += n_merged;
}
