"""
What does the whole artifact-rejecting coadd cost, in medians of one of its two stacks?

    python benchmarks/bench_coadd.py --epochs 12 --size 1024 --json -

`numpy.nanmedian` over the direct warps is the yardstick: everybody has it, and it is what many would use instead.
Both are timed in turn in the same run. The coadd reads two stacks of image, variance and mask, and gives
back all three planes.
"""

from __future__ import annotations

import warnings

from common import emit, interleave, options, processor, ratios, say, say_times, summary, versions

import numpy as np  # isort: skip  # after common, which pins its threads
from scipy import ndimage  # isort: skip

import gpucoadd  # isort: skip

STARS_PER_PIXEL = 1.5e-3
COADD, MEDIAN = "gpucoadd.coadd", "numpy.nanmedian, one stack"


def make_warps(n_epochs: int, size: int, seed: int) -> tuple[gpucoadd.WarpStack, np.ndarray]:
    """
    Warps with their twins, and the planted artifacts.

    Many stars with a power law of fluxes under another Gaussian PSF in each epoch; a trail in every third epoch and
    a few cosmic rays; borders without data. Twins are the warps convolved to one width.

    Returns
    -------
    WarpStack
    array, shape (epoch, y, x), bool
        Pixels of the planted trails.
    """
    rng = np.random.default_rng(seed)
    schema = gpucoadd.MaskSchema.lsst()
    no_data = np.int32(schema.bitmask("NO_DATA"))
    shape = (n_epochs, size, size)
    sigma = rng.uniform(1.6, 2.2, n_epochs)
    target = 2.5
    noise = rng.uniform(8.0, 12.0, n_epochs)
    points = np.zeros((size, size), np.float32)
    n_stars = int(STARS_PER_PIXEL * size * size)
    at = rng.integers(0, size, (2, n_stars))
    np.add.at(points, tuple(at), (200.0 * (1.0 + rng.pareto(1.2, n_stars))).clip(max=2e5).astype(np.float32))

    planes = {name: np.empty(shape, np.float32) for name in ("image", "variance", "twin", "twin_variance")}
    mask, trails = np.zeros(shape, np.int32), np.zeros(shape, bool)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    for epoch in range(n_epochs):
        sky = ndimage.gaussian_filter(points, sigma[epoch])
        variance = (noise[epoch] ** 2 + 0.3 * sky.clip(min=0)).astype(np.float32)
        image = sky + rng.standard_normal((size, size), dtype=np.float32) * np.sqrt(variance)
        if epoch % 3 == 0:
            angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3) * size
            distance = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) - offset
            trails[epoch] = np.abs(distance) < 2.0
            image += 300.0 * np.exp(-0.5 * (distance / 2.0) ** 2)
        hits = rng.integers(0, size, (2, size // 50))
        image[tuple(hits)] += 3000.0
        width = matching_width(target, sigma[epoch])
        planes["image"][epoch], planes["variance"][epoch] = image, variance
        planes["twin"][epoch] = ndimage.gaussian_filter(image, width, truncate=4.0)
        # white noise through a Gaussian of that width keeps this share of its variance
        planes["twin_variance"][epoch] = ndimage.gaussian_filter(variance, width / np.sqrt(2)) / (4 * np.pi * width**2)
        border = rng.integers(0, size // 16 + 1, 4)
        gone = np.ones((size, size), bool)
        gone[border[0] : size - border[1], border[2] : size - border[3]] = False
        mask[epoch, gone] |= no_data
        for plane in planes.values():
            plane[epoch, gone] = np.nan
    twins = gpucoadd.WarpStack(
        planes["twin"], planes["twin_variance"], mask, schema=schema, psf_sigma=np.full(n_epochs, target)
    )
    warps = gpucoadd.WarpStack(
        planes["image"], planes["variance"], mask.copy(), schema=schema, psf_sigma=sigma, psf_matched=twins
    )
    return warps, trails & (mask == 0)


def matching_width(wide: float, narrow: float) -> float:
    """Width of the Gaussian that takes one of width `narrow` to `wide`."""
    return float(np.sqrt(wide**2 - narrow**2))


def check(coadd: gpucoadd.Coadd, warps: gpucoadd.WarpStack, trails: np.ndarray) -> dict[str, float]:
    """Raise AssertionError unless the trails went and the sky stayed; the shares found."""
    clipped = coadd.clipped
    found = float(clipped[trails].mean()) if trails.any() else 1.0
    share = float(clipped.mean())
    median = np.nanmedian(warps.image, axis=0)
    rest = coadd.image - median
    assert found > 0.8, f"only {found:.1%} of the planted trails was clipped"
    assert share < 0.1, f"{share:.1%} of all pixels were clipped"
    assert abs(float(np.nanmedian(rest))) < 1.0, f"the coadd is off by {np.nanmedian(rest)} in the median"
    return {"trail_found": round(found, 4), "clipped": round(share, 5)}


def main() -> None:
    """Check, time, report."""
    args = options(__doc__, threads="of gpucoadd.coadd (1: the cost per core)")
    warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN pixels are an answer, not an accident

    warps, trails = make_warps(args.epochs, args.size, args.seed)
    quality = check(gpucoadd.coadd(warps, threads=args.threads), warps, trails)
    say(f"{args.epochs} x {args.size} x {args.size} and twins, seed {args.seed}; {processor()}")
    say(f"{quality['trail_found']:.1%} of the planted trails clipped, {quality['clipped']:.2%} of all pixels")
    times = interleave(
        {
            COADD: lambda: gpucoadd.coadd(warps, threads=args.threads),
            MEDIAN: lambda: np.nanmedian(warps.image, axis=0),
        },
        repeats=args.repeats,
    )
    say_times(times)
    found = {clock: ratios(times[COADD], times[MEDIAN], clock) for clock in ("cpu", "wall")}
    cpu, wall = (found[clock]["median"] for clock in ("cpu", "wall"))
    say(f"coadd / nanmedian: {cpu:.2f} CPU, {wall:.2f} wall (hoped for: at most 3)")
    record = {
        "benchmark": "coadd",
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "device": processor(),
        "versions": versions("gpucoadd", "numpy", "scipy"),
        "quality": quality,
        "seconds": {name: {clock: summary(clocks[clock]) for clock in clocks} for name, clocks in times.items()},
        "ratios": {"coadd / nanmedian": found},
    }
    emit(record, args.json)


if __name__ == "__main__":
    main()
