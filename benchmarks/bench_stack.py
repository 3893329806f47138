"""
How fast is one statistic over the epochs, next to what else could be used for it?

    python benchmarks/bench_stack.py --epochs 12 --size 1024 --json -

Ours also carries the variance and the mask to the result, and weights every epoch; no other call here does. All get the
same pixels: NaN where a sample is bad for those that want NaN, a mask for those that want one.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

from common import emit, interleave, options, processor, ratios, say, say_times, summary, versions

import numpy as np  # isort: skip  # after common, which pins its threads

import gpucoadd  # isort: skip

SIGMA, ROUNDS = 2.5, 3
FLOAT32 = dict(rtol=4 * float(np.finfo(np.float32).eps), atol=0.0)  # a median of two is one addition and one rounding
# Ratios worth watching: name, over, under, clock, what we want, and the bound.
TARGETS = (
    ("clip", "gpucoadd.stack MEANCLIP", "astropy.stats.SigmaClip, clip only", "at most", 1.0),
    ("median", "bottleneck.nanmedian", "gpucoadd.stack MEDIAN", "at least", 1.5),
)


def make_stack(n_epochs: int, size: int, seed: int, bad: float = 0.02) -> dict[str, np.ndarray]:
    """Noise of another width in each epoch, `bad` of the samples masked and NaN, a few outliers."""
    rng = np.random.default_rng(seed)
    shape = (n_epochs, size, size)
    sigma = rng.uniform(0.8, 1.3, n_epochs).astype(np.float32)
    image = rng.standard_normal(shape, dtype=np.float32) * sigma[:, None, None] + np.float32(100.0)
    image[rng.random(shape, dtype=np.float32) < 0.002] += np.float32(50.0)
    masked = rng.random(shape, dtype=np.float32) < bad
    image[masked] = np.nan
    variance = np.broadcast_to(sigma[:, None, None] ** 2, shape).astype(np.float32)
    variance[masked] = np.nan
    return {"image": image, "variance": variance, "masked": masked, "weights": 1.0 / sigma.astype(np.float64) ** 2}


def our_calls(data: dict[str, np.ndarray], threads: int) -> dict[str, Callable[[], Any]]:
    """`gpucoadd.stack` with three statistics."""
    schema = gpucoadd.MaskSchema.lsst().with_planes("CLIPPED", "REJECTED", "SENSOR_EDGE", "INEXACT_PSF")
    mask = np.where(data["masked"], np.int32(schema.bitmask("NO_DATA")), np.int32(0))

    def call(statistic: str) -> Any:
        return gpucoadd.stack(
            data["image"],
            data["variance"],
            mask,
            data["weights"],
            statistic=statistic,
            reject=("NO_DATA", "BAD"),
            sigma_clip=SIGMA,
            clip_iterations=ROUNDS,
            schema=schema,
            threads=threads,
        )

    return {f"gpucoadd.stack {name}": lambda name=name: call(name) for name in ("MEAN", "MEDIAN", "MEANCLIP")}


def numpy_calls(data: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """What NumPy alone has."""
    return {
        "numpy.nanmedian": lambda: np.nanmedian(data["image"], axis=0),
        "numpy.nanmean": lambda: np.nanmean(data["image"], axis=0),
    }


def astropy_calls(data: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Sigma clipping about the median, then the mean, on NaN and on masked arrays."""
    from astropy.stats import SigmaClip

    clip = SigmaClip(sigma=SIGMA, maxiters=ROUNDS, cenfunc="median", stdfunc="std")
    masked = np.ma.MaskedArray(data["image"], mask=data["masked"])
    return {
        "astropy.stats.SigmaClip, clip only": lambda: clip(data["image"], axis=0, masked=False),
        "astropy.stats.SigmaClip + mean": lambda: np.nanmean(clip(data["image"], axis=0, masked=False), axis=0),
        "astropy.stats.SigmaClip + mean, masked array": lambda: clip(masked, axis=0).mean(axis=0),
    }


def bottleneck_calls(data: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """The fastest median that can be installed."""
    bottleneck = importlib.import_module("bottleneck")
    return {"bottleneck.nanmedian": lambda: bottleneck.nanmedian(data["image"], axis=0)}


def ccdproc_calls(data: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """`Combiner`: sigma clipping and average, and median; filling the combiner is outside the clock."""
    ccdproc = importlib.import_module("ccdproc")
    from astropy.nddata import CCDData

    images = zip(data["image"], data["masked"], strict=True)
    combiner = ccdproc.Combiner([CCDData(image, mask=mask, unit="adu") for image, mask in images])
    unclipped = combiner.mask.copy() if hasattr(combiner, "mask") else combiner.data_arr.mask.copy()

    def clipped_mean() -> Any:
        if hasattr(combiner, "mask"):
            combiner.mask = unclipped.copy()
        else:
            combiner.data_arr.mask = unclipped.copy()
        combiner.sigma_clipping(SIGMA, SIGMA, func="median", dev_func="std")
        return combiner.average_combine().data

    return {
        "ccdproc.Combiner.median_combine": lambda: combiner.median_combine().data,
        "ccdproc.Combiner sigma_clipping + average": clipped_mean,
    }


def check(results: dict[str, Any], data: dict[str, np.ndarray]) -> None:
    """Raise AssertionError unless the calls agree where they mean the same thing."""
    median = np.nanmedian(data["image"], axis=0)
    for name in ("gpucoadd.stack MEDIAN", "bottleneck.nanmedian", "ccdproc.Combiner.median_combine"):
        if name in results:
            np.testing.assert_allclose(plain(results[name]), median, err_msg=name, **FLOAT32)
    # The clipping rules differ (quartiles here, standard deviations there); each must stay near the truth, 100.
    for name, result in results.items():
        if any(word in name for word in ("MEANCLIP", "SigmaClip", "sigma_clipping")):
            values = plain(result)
            assert abs(float(np.nanmedian(values)) - 100.0) < 0.05, f"{name}: median {np.nanmedian(values)}"


def plain(result: Any) -> np.ndarray:
    """Pixel values of any call's result."""
    return np.ma.filled(result.image if isinstance(result, gpucoadd.MaskedImage) else result, np.nan)


def main() -> None:
    """Check, time, report."""
    args = options(__doc__, threads="of gpucoadd.stack; the others use one")
    warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN pixels are an answer, not an accident
    warnings.filterwarnings("ignore", "Input data contains invalid values")  # astropy, of every NaN

    data = make_stack(args.epochs, args.size, args.seed)
    calls = our_calls(data, args.threads) | numpy_calls(data)
    skipped = []
    for add in (astropy_calls, bottleneck_calls, ccdproc_calls):
        try:
            calls |= add(data)
        except ImportError as error:
            skipped.append(str(error))
            say(f"skipped: {error}; pip install --group bench brings it")

    check({name: call() for name, call in calls.items()}, data)
    say(f"{args.epochs} x {args.size} x {args.size}, float32, 2 % masked, seed {args.seed}; {processor()}")
    times = interleave(calls, repeats=args.repeats)
    say_times(times)
    found = {}
    for name, over, under, wanted, bound in TARGETS:
        if over in times and under in times:
            found[name] = {clock: ratios(times[over], times[under], clock) for clock in ("cpu", "wall")}
            cpu, wall = (found[name][clock]["median"] for clock in ("cpu", "wall"))
            say(f"{over} / {under}: {cpu:.2f} CPU, {wall:.2f} wall (hoped for: {wanted} {bound})")
    record = {
        "benchmark": "stack",
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "device": processor(),
        "versions": versions("gpucoadd", "numpy", "scipy", "astropy", "bottleneck", "ccdproc"),
        "seconds": {name: {clock: summary(clocks[clock]) for clock in clocks} for name, clocks in times.items()},
        "ratios": found,
        "skipped": skipped,
    }
    emit(record, args.json)


if __name__ == "__main__":
    main()
