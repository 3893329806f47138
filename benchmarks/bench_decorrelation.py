"""
What does decorrelation cost, in Fourier transforms of the image, and how white is the noise at the edges?

    python benchmarks/bench_decorrelation.py --size 2048 --json -

One real transform of the padded image forward and one back are the yardstick: no filter in Fourier space does without.
Ours measures two variances, makes the correction, and gives back a variance plane besides. The textbook is DMTN-021
written down with `numpy.fft`. All are timed in turn in the same run, on the same pixels.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from common import compare, emit, interleave, options, processor, processors, say, say_times, summary, versions

import numpy as np  # isort: skip  # after common, which pins its threads
import scipy.fft  # isort: skip
from scipy import ndimage, signal  # isort: skip

import gpucoadd  # isort: skip

STAMP = 21  # pixels along a side of the kernel
BASIS = (0.7, 1.5, 3.0)  # widths of its Gaussians
SKY = {"science_variance": 100.0, "template_variance": 60.0}  # in counts, the variances of empty sky
STARS_PER_PIXEL, NEW_STARS_PER_PIXEL = 8e-4, 2e-5
MASKED = ("DETECTED", "CR", "BAD")
CELLS = gpucoadd.CellGrid(cell_size=41, grid_step=40, border_size=8, scale_by_fwhm=False)
EDGE_RATIOS, EDGE_WIDTHS, EDGE_ROWS = (1.0, 10.0, 100.0, 1e4), (1.17, 2.46), (0, 1, 2, 4)
EDGE_SIZE, EDGE_IMAGES, CORNER = 512, 16, 32  # noise images of that size; pixels at the ends of each edge left out

OURS, GIVEN = "gpucoadd.decorrelate", "gpucoadd, variances given"
SINGLE, REFLECT = 'gpucoadd, precision="single"', 'gpucoadd, edge="reflect"'
PAIR, TEXTBOOK = "scipy.fft.rfft2 + irfft2", "textbook"
SFFT, SFFT_ASTROPY = "sfft + scipy.signal.fftconvolve", "sfft + astropy convolve_fft"
OURS_ALL, PAIR_ALL = "gpucoadd, all processors", "scipy.fft.rfft2 + irfft2, all processors"
IN_CELLS, TEXTBOOK_LOOP, OUR_LOOP = "gpucoadd, in cells", "loop over cells, textbook", "loop over cells, gpucoadd"
# Ratios worth watching: over, under, what we want.
TARGETS = (
    (OURS, PAIR, "at most 1.35"),
    (GIVEN, PAIR, None),
    (SINGLE, OURS, None),
    (REFLECT, OURS, None),
    (TEXTBOOK, OURS, "at least 3"),
    (SFFT, GIVEN, None),
    (SFFT_ASTROPY, GIVEN, None),
    (OURS_ALL, PAIR_ALL, None),
    (TEXTBOOK_LOOP, IN_CELLS, "at least 4"),
    (OUR_LOOP, IN_CELLS, None),
    (IN_CELLS, OURS, None),
)

Planes = tuple[np.ndarray, np.ndarray]  # image and variance


class Scene(NamedTuple):
    """Two images, their difference, and the kernel that takes the second to the first."""

    science: gpucoadd.MaskedImage
    template: gpucoadd.MaskedImage
    difference: gpucoadd.MaskedImage
    kernel: gpucoadd.SpatialKernel

    @property
    def images(self) -> tuple[gpucoadd.MaskedImage, ...]:
        """Science, template, difference."""
        return self[:3]

    @property
    def whole(self) -> tuple[Any, ...]:
        """The images, and the kernel in the middle of the field, which the difference was made with."""
        return *self.images, self.kernel.at(*(n / 2 for n in self.difference.shape))

    def with_difference(self, image: np.ndarray) -> Scene:
        """The same with other pixels in the difference."""
        like = self.difference
        return self._replace(difference=gpucoadd.MaskedImage(image, like.variance, like.mask, schema=like.schema))

    def in_double(self) -> Scene:
        """The same with a difference in float64, whose correction is not rounded to float32."""
        return self.with_difference(self.difference.image.astype(np.float64))


def gaussian(width: float) -> np.ndarray:
    """Kernel of sum 1."""
    y, x = np.mgrid[:STAMP, :STAMP] - STAMP // 2
    values = np.exp(-0.5 * (x**2 + y**2) / width**2)
    return values / values.sum()


def make_kernel(size: int, rng: np.random.Generator) -> gpucoadd.SpatialKernel:
    """Three Gaussians, whose shares vary by a polynomial of degree 2 over the field."""
    coefficients = rng.uniform(-0.03, 0.03, (len(BASIS), 6))
    coefficients[:, 0] = 0.2, 0.6, 0.2
    edges = (-0.5, -0.5, size - 0.5, size - 0.5)
    return gpucoadd.SpatialKernel(np.stack([*map(gaussian, BASIS)]), coefficients, kind="chebyshev1", range=edges)


def make_scene(size: int, seed: int) -> Scene:
    """
    A field of stars, the difference made with the kernel of its middle.

    Images and variance planes are Poisson counts; the science image has new stars. Stars, random pixels and a few
    columns are masked.
    """
    rng = np.random.default_rng(seed)
    schema = gpucoadd.MaskSchema.lsst()
    kernel = make_kernel(size, rng)
    middle = kernel.at(size / 2, size / 2)

    def stars(density: float) -> np.ndarray:
        plane = np.zeros((size, size))
        at = rng.integers(0, size, (2, int(density * size * size)))
        np.add.at(plane, tuple(at), (1000.0 * (1.0 + rng.pareto(1.0, at.shape[1]))).clip(max=1e6))
        return ndimage.gaussian_filter(plane, 1.5)

    def observed(truth: np.ndarray, sky: float) -> gpucoadd.MaskedImage:
        counts = rng.poisson(truth.clip(min=0) + sky).astype(np.float32)
        mask = np.zeros(truth.shape, np.int32)
        mask[truth > 2 * np.sqrt(sky)] |= schema.bitmask("DETECTED")
        mask[tuple(rng.integers(0, size, (2, size * size // 200)))] |= schema.bitmask("CR")
        mask[:, rng.integers(0, size, size // 200)] |= schema.bitmask("BAD")
        return gpucoadd.MaskedImage(counts - np.float32(sky), counts, mask, schema=schema)

    old, new = stars(STARS_PER_PIXEL), stars(NEW_STARS_PER_PIXEL)
    science = observed(signal.fftconvolve(old + new, middle, mode="same"), SKY["science_variance"])
    template = observed(old, SKY["template_variance"])
    difference = science.image - signal.fftconvolve(template.image.astype(np.float64), middle, mode="same")
    return Scene(science, template, science, kernel).with_difference(difference.astype(np.float32))


# Whole images -------------------------------------------------------------------------------------------------------


def ours(*images_and_kernel: Any, **kwargs: Any) -> Planes:
    """`gpucoadd.decorrelate`."""
    result = gpucoadd.decorrelate(*images_and_kernel, **kwargs)
    return result.image, result.variance


def padded_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """An even grid on which nothing wraps around."""
    return tuple(n + STAMP - 1 + (n + STAMP - 1) % 2 for n in shape)


def textbook(science: Any, template: Any, difference: Any, kernel: np.ndarray) -> Planes:
    """DMTN-021 on the full complex plane, in double precision."""
    v1, v2 = clipped_variance(science), clipped_variance(template)
    (height, width), shape = difference.shape, padded_shape(difference.shape)
    padded = np.zeros(shape)
    padded[:STAMP, :STAMP] = kernel
    k = np.fft.fft2(np.roll(padded, (-(STAMP // 2), -(STAMP // 2)), axis=(0, 1)))
    c = np.sqrt((v1 + v2 * kernel.sum() ** 2) / (v1 + v2 * np.abs(k) ** 2))
    padded = np.zeros(shape)
    padded[:height, :width] = difference.image
    image = np.fft.ifft2(np.fft.fft2(padded) * c).real[:height, :width]
    variance = (c**2).mean() * science.variance + (np.abs(c * k) ** 2).mean() * template.variance
    return image, variance


def clipped_variance(image: Any) -> float:
    """Mean of a variance plane without the outliers: three rounds at three sigma, the first from the quartiles."""
    values = image.variance[(image.mask & image.schema.bitmask(*MASKED)) == 0].astype(np.float64)
    low, centre, high = np.percentile(values, (25, 50, 75))
    width = 3 * 0.741301109252802 * (high - low)  # of a Gaussian
    for _ in range(3):
        kept = values[np.abs(values - centre) <= width]
        centre, width = kept.mean(), 3 * kept.std(ddof=1)
    return float(centre)


def whole_calls(scene: Scene, threads: int) -> dict[str, Callable[[], Any]]:
    """Ours in its variants, the two transforms alone, and the textbook."""
    padded = np.zeros(padded_shape(scene.difference.shape))
    padded[tuple(map(slice, scene.difference.shape))] = scene.difference.image

    def pair(workers: int) -> np.ndarray:
        return scipy.fft.irfft2(scipy.fft.rfft2(padded, workers=workers), padded.shape, workers=workers)

    return {
        OURS: lambda: ours(*scene.whole, threads=threads),
        GIVEN: lambda: ours(*scene.whole, threads=threads, **SKY),
        SINGLE: lambda: ours(*scene.whole, threads=threads, precision="single"),
        REFLECT: lambda: ours(*scene.whole, threads=threads, edge="reflect"),
        PAIR: lambda: pair(1),
        TEXTBOOK: lambda: textbook(*scene.whole),
        OURS_ALL: lambda: ours(*scene.whole, threads=processors()),
        PAIR_ALL: lambda: pair(processors()),
    }


def sfft_calls(scene: Scene) -> dict[str, Callable[[], Any]]:
    """sfft's decorrelation kernel and a convolution with it; it takes the variances and makes no variance plane."""
    calculator = importlib.import_module("sfft.utils.DeCorrelationCalculator").DeCorrelation_Calculator
    from astropy.convolution import convolve_fft

    image, matching = scene.difference.image.astype(np.float64), scene.whole[-1]
    science_sigma, template_sigma = (variance**0.5 for variance in SKY.values())

    def kernel() -> np.ndarray:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return calculator.DCC(
                MK_JLst=[None],
                SkySig_JLst=[science_sigma],
                MK_ILst=[matching],
                SkySig_ILst=[template_sigma],
                MK_Fin=None,
                KERatio=2.0,
                VERBOSE_LEVEL=0,
            )

    return {
        SFFT: lambda: signal.fftconvolve(image, kernel(), mode="same"),
        SFFT_ASTROPY: lambda: convolve_fft(
            image, kernel(), boundary="fill", nan_treatment="fill", fill_value=0.0, normalize_kernel=True
        ),
    }


# Cells --------------------------------------------------------------------------------------------------------------


def cell_calls(scene: Scene, threads: int) -> dict[str, Callable[[], Planes]]:
    """Ours, all cells at once, and two loops over the cells."""
    return {
        IN_CELLS: lambda: ours(*scene, cells=CELLS, threads=threads),
        TEXTBOOK_LOOP: lambda: loop_over_cells(scene, textbook),
        OUR_LOOP: lambda: loop_over_cells(scene, lambda *cell: ours(*cell, threads=1)),
    }


def loop_over_cells(scene: Scene, correct: Callable[..., Planes]) -> Planes:
    """Mean of the inner parts of the cells, each corrected with the kernel in the middle of its expanded box."""
    image, variance, count = np.zeros((3, *scene.difference.shape))
    boxes = CELLS.boxes(scene.difference.shape, force_even=True)
    for (x0, y0, nx, ny), (left, bottom, width, height) in zip(*(b.tolist() for b in boxes), strict=True):
        window = slice(bottom, bottom + height), slice(left, left + width)
        cell = [
            gpucoadd.MaskedImage(i.image[window], i.variance[window], i.mask[window], schema=i.schema)
            for i in scene.images
        ]
        planes = correct(*cell, scene.kernel.at(bottom + height / 2, left + width / 2))
        inner = slice(y0 - bottom, y0 - bottom + ny), slice(x0 - left, x0 - left + nx)
        target = slice(y0, y0 + ny), slice(x0, x0 + nx)
        image[target] += planes[0][inner]
        variance[target] += planes[1][inner]
        count[target] += 1
    return image / count, variance / count


# What is right ------------------------------------------------------------------------------------------------------


def check(scene: Scene, sfft: dict[str, Callable[[], Any]]) -> None:
    """Raise AssertionError unless all ways to correct the difference agree, in double precision."""
    scene = scene.in_double()
    whole = ours(*scene.whole)
    agree(TEXTBOOK, whole, textbook(*scene.whole))
    agree(OURS_ALL, whole, ours(*scene.whole, threads=processors()), within=0)
    in_cells = {name: call() for name, call in cell_calls(scene, 1).items()}
    for name in (TEXTBOOK_LOOP, OUR_LOOP):
        agree(name, in_cells[IN_CELLS], in_cells[name])
    image = ours(*scene.whole, **SKY)[:1]
    for name, call in sfft.items():
        agree(name, image, (call(),), within=1e-5)  # its kernel is cut off


def agree(name: str, one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...], within: float = 1e-9) -> None:
    """
    Raise AssertionError unless images differ by at most `within` standard deviations.

    Variance planes, which are float32, must agree to their rounding.
    """
    error = np.abs(one[0] - other[0]).max() / one[0].std()
    assert error <= within, f"{name}: images differ by up to {error:.2g} standard deviations"
    for first, second in zip(one[1:], other[1:], strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6, err_msg=name)


def single_errors(scene: Scene, seed: int) -> dict[str, dict[str, float]]:
    """Largest error of single precision, of noise alone and of the scene with its stars."""
    scene = scene.in_double()
    *_, kernel = scene.whole
    white, convolved = noise_pair(kernel, len(scene.difference.image), seed)
    scales = [variance**0.5 for variance in SKY.values()]
    noise = scene.with_difference(scales[0] * white - scales[1] * convolved)
    sigma = sum(SKY.values()) ** 0.5
    found = {}
    say("\nprecision=single: largest error over the standard deviation of the result, over that of the noise")
    for name, one in (("noise", noise), ("stars", scene)):
        double, single = (ours(*one.whole, precision=precision)[0] for precision in ("double", "single"))
        error, brightest = float(np.abs(single - double).max()), float(double.max()) / sigma
        found[name] = {"over_std": error / float(double.std()), "over_noise": error / sigma, "brightest": brightest}
        say("  {over_std:.1e}  {over_noise:.1e}  {}, up to {brightest:.0f} sigma".format(name, **found[name]))
    return found


def edge_noise(seed: int) -> list[dict[str, Any]]:
    """
    Noise left at the edges of noise images: variance over what is expected, by row, and correlations of neighbours.

    "along" is between neighbours in the outermost row, "across" between this and the second row. Images are cut out
    of larger ones, so that the difference itself knows no edge; all four edges count.
    """
    say(f"\nv2/v1  width  edge    variance in rows {', '.join(map(str, EDGE_ROWS))} over expected      along  across")
    found = []
    for width in EDGE_WIDTHS:
        kernel = gaussian(width)
        noise = [noise_pair(kernel, EDGE_SIZE, seed + number) for number in range(EDGE_IMAGES)]
        for ratio in EDGE_RATIOS:
            for edge in ("zero", "reflect"):
                rows = np.concatenate([edge_rows(*pair, kernel, ratio, edge) for pair in noise])
                power = (rows**2).mean(axis=(0, 2))
                along = (rows[:, 0, :-1] * rows[:, 0, 1:]).mean() / power[0]
                across = (rows[:, 0] * rows[:, 1]).mean() / np.sqrt(power[0] * power[1])
                variance = [round(float(power[row]) / (1 + ratio), 3) for row in EDGE_ROWS]
                line = {"ratio": ratio, "width": width, "edge": edge, "variance": variance}
                found.append(line | {"along": round(float(along), 3), "across": round(float(across), 3)})
                numbers = "".join(f"{value:9.3f}" for value in variance)
                say(f"{ratio:<7g}{width:<7g}{edge:<8}{numbers}{along:15.3f}{across:8.3f}")
    return found


def noise_pair(kernel: np.ndarray, size: int, seed: int) -> Planes:
    """White noise, and other white noise after the kernel, cut out of a larger image."""
    rng = np.random.default_rng(seed)
    large = rng.standard_normal((size + STAMP - 1, size + STAMP - 1))
    return rng.standard_normal((size, size)), signal.fftconvolve(large, kernel, mode="valid")


def edge_rows(white: np.ndarray, convolved: np.ndarray, kernel: np.ndarray, ratio: float, edge: str) -> np.ndarray:
    """The outermost rows at all four edges of a corrected difference, shape (4, row, x)."""
    image = white - np.sqrt(ratio) * convolved
    no_mask = np.zeros(image.shape, np.int32)
    noise = gpucoadd.MaskedImage(image, np.ones_like(image), no_mask, schema=gpucoadd.MaskSchema.lsst())
    variances = {"science_variance": 1.0, "template_variance": ratio}
    result, _ = ours(noise, noise, noise, kernel, **variances, edge=edge, threads=1)
    return np.stack([np.rot90(result, turns)[: max(EDGE_ROWS) + 1, CORNER:-CORNER] for turns in range(4)])


def main() -> None:
    """Check, time, report."""
    args = options(__doc__, threads="of gpucoadd; its loop over cells and all others use one", size=2048, epochs=None)
    scene = make_scene(args.size, args.seed)
    sfft: dict[str, Callable[[], Any]] = {}
    skipped = []
    try:
        sfft = sfft_calls(scene)
    except ImportError as error:
        skipped.append(str(error))
        say(f"skipped: {error}; pip install sfft brings it")
    check(scene, sfft)
    share = float((scene.science.mask != 0).mean())
    say(f"{args.size} x {args.size}, kernel {STAMP} x {STAMP}, {share:.1%} masked, seed {args.seed}; {processor()}")
    calls = whole_calls(scene, args.threads) | sfft | cell_calls(scene, args.threads)
    times = interleave(calls, repeats=args.repeats)
    say_times(times)
    found = compare(times, TARGETS)
    record = {
        "benchmark": "decorrelation",
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "device": processor(),
        "processors": processors(),
        "versions": versions("gpucoadd", "numpy", "scipy", "astropy", "sfft"),
        "seconds": {name: {clock: summary(clocks[clock]) for clock in clocks} for name, clocks in times.items()},
        "ratios": found,
        "single": single_errors(scene, args.seed),
        "edges": edge_noise(args.seed),
        "skipped": skipped,
    }
    emit(record, args.json)


if __name__ == "__main__":
    main()
