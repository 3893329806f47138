"""
How fast is the device code, next to a copy, to the bus, and to what a CuPy user would write today?

    python benchmarks/bench_device.py --json device.json

All pixels are resident when the clock starts, unless a line says otherwise; transfers are timed apart. Results are
compared before anything is timed. Each line states the bytes it cannot do without and which share of the measured copy
speed they amount to. The record is written after every line, so the run may be cut short. With --device cpu the same
runs on NumPy, which shows that it works and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from typing import Any

from common import processor, say, versions

import numpy as np  # isort: skip  # after common, which pins its threads

import gpucoadd  # isort: skip
from gpucoadd import backend, benchmarking, primitives, timing  # isort: skip
from gpucoadd.bench_scene import SCIENCE_VARIANCE, SKY_SIGMA, TEMPLATE_VARIANCE, Field, make_field  # isort: skip
from gpucoadd.bench_steps import CELLS, REJECT, STEPS, Bench, stacking  # isort: skip
from gpucoadd.coadds import Coadd  # isort: skip
from gpucoadd.upload import pinned  # isort: skip
from gpucoadd.workers import check_threads  # isort: skip

FULL = {"size": 4200, "epochs": 30}  # what the target in milliseconds is about
COADD_SECONDS = 0.060
PEER = 10.0  # how many times faster than the CuPy user's version
SIGMA, ROUNDS = 2.5, 2
CLIPPING = {"sigma_clip": SIGMA, "clip_iterations": ROUNDS}
BOTH_STACKS = 24  # bytes a sample: in pinned host memory, over the bus, and on the device a second time meanwhile
PEER_BYTES = 16  # bytes a sample that median and sigma clipping in array code take at once, beside the stacks
BAND = 64  # rows that are compared with NumPy
ROUNDING = dict(rtol=1e-5, atol=1e-4)  # a few float32 roundings of values up to 1e5, of which some cancel
DECORRELATION_STAMP = 43  # side of sfft's decorrelation kernel
STEP = {step.name: step for step in STEPS}


class Run:
    """One run: what it works on, the record, and the lines for people."""

    def __init__(self, args: argparse.Namespace, xp: Any, word: str) -> None:
        threads = check_threads(args.threads)
        self.args, self.xp = args, xp
        self.bench = Bench(xp, size=args.size, n_epochs=args.epochs, seed=args.seed, threads=threads)
        self.record: dict[str, Any] = {
            "benchmark": "device",
            "complete": False,
            "device": word,
            "on_gpu": not backend.is_host(xp),
            "note": ""
            if word != "cpu"
            else "on NumPy: shows that the comparison runs, and says nothing about a device",
            "facts": [list(fact) for fact in backend.describe()],
            "processor": processor(),
            "versions": versions("gpucoadd", "numpy", "scipy", "astropy", "ccdproc", "sfft")
            | {"gpucoadd": gpucoadd.__version__},
            "settings": {name: value for name, value in vars(args).items() if name != "json"},
            "copy": {},
            "transfers": {},
            "results": {},
            "targets": [],
            "skipped": {},
            "failed": {},
        }

    def keep(self) -> None:
        """Write what there is."""
        if self.args.json:
            benchmarking.save(self.record, self.args.json)

    def time(self, name: str, call: Callable[[], Any], floor: int | None = None) -> float:
        """Median seconds of a call; `floor` is its bytes."""
        timings = timing.measure(call, self.xp, repeats=self.args.repeats, patience=self.args.patience)
        line: dict[str, Any] = {"seconds": timings.summary()}
        if floor is not None:
            speed = floor / timings.median
            share = speed / self.record["copy"]["bytes_per_second"]
            line |= {"floor_bytes": floor, "bytes_per_second": speed, "share_of_copy": share}
        self.record["results"][name] = line
        self.keep()
        seconds = line["seconds"]
        spread = "".join(f"{1e3 * seconds[which]:11.3f}" for which in ("median", "min", "max"))
        rest = f"{floor / 1e9:9.3f}{speed / 1e9:9.1f}{share:9.1%}" if floor is not None else ""
        say(f"{name:<48}{spread}{rest}")
        return timings.median

    def time_step(self, step: str, call: Callable[[], Any] | None = None) -> float:
        """Median seconds of a step of `gpucoadd bench`."""
        return self.time(step, call or STEP[step].build(self.bench), STEP[step].floor.of(self.bench))

    def share(self, name: str) -> float:
        """Share of the copy speed that a timed line reached."""
        return self.record["results"][name]["share_of_copy"]

    def target(self, what: str, value: float, relation: str, bound: float | None, *, judged: bool = True) -> None:
        """Note a figure beside what is hoped for; without a bound, nothing is."""
        met = None
        if bound is not None and judged and self.record["on_gpu"]:
            met = value >= bound if relation == "at least" else value <= bound
        self.record["targets"].append({"what": what, "value": value, "relation": relation, "bound": bound, "met": met})
        self.keep()

    def peer(self, name: str, call: Callable[[], Any], ours: str, seconds: float, *, hoped: bool = True) -> None:
        """Time what else could be used, and note how many times as long it takes."""
        taken = self.time(name, call)
        self.target(f"{name} / {ours}", taken / seconds, "at least", PEER if hoped else None)

    def skip(self, name: str, reason: object) -> None:
        """Note what could not be compared."""
        self.record["skipped"][name] = " ".join(f"{type(reason).__name__}: {reason}".split())
        self.keep()
        say(f"skipped: {name}: {self.record['skipped'][name]}")


# Memory and bus ------------------------------------------------------------------------------------------------------


def speeds(run: Run) -> None:
    """The copy that everything is held against, and the bus."""
    like = 12 * run.bench.n_samples
    run.record["copy"] = timing.copy_speed(run.xp, repeats=max(5, run.args.repeats), like=like)
    say(f"copy: {run.record['copy']['bytes_per_second'] / 1e9:.1f} GB/s, read and written")
    if run.record["on_gpu"]:
        run.record["transfers"] = timing.transfer_speeds(run.xp, repeats=5, like=like)
        for name, speed in run.record["transfers"].items():
            say(f"{name}: {speed['bytes_per_second'] / 1e9:.1f} GB/s")
    run.keep()
    say(f"{'milliseconds of':<48}{'median':>11}{'least':>11}{'most':>11}{'GB':>9}{'GB/s':>9}{'of copy':>9}")


# One statistic over the epochs ---------------------------------------------------------------------------------------


def good_samples(run: Run) -> Any:
    """Which samples of the direct warps are good, (epoch, y, x) bool."""
    warps = run.bench.warps
    return ((warps.mask & warps.schema.bitmask(*REJECT)) == 0) & run.xp.isfinite(warps.image)


def array_clip(xp: Any, values: Any) -> Any:
    """Sigma clipping as one writes it down with arrays: NaN is bad."""
    for _ in range(ROUNDS):
        centre = xp.nanmedian(values, axis=0)
        width = xp.nanstd(values, axis=0)
        values = xp.where(xp.abs(values - centre) <= SIGMA * width, values, xp.nan)
    return xp.nanmean(values, axis=0)


def array_mean(xp: Any, image: Any, good: Any, weights: Any) -> Any:
    """Weighted mean of the good samples."""
    shares = xp.where(good, weights[:, None, None], xp.float32(0))
    return (shares * xp.where(good, image, xp.float32(0))).sum(axis=0) / shares.sum(axis=0)


def statistics_of_stack(run: Run) -> None:
    """Median, clipped and weighted mean."""
    xp, warps = run.xp, run.bench.warps
    ours = {"median": "MEDIAN", "clipped mean": "MEANCLIP", "weighted mean": "MEAN"}
    calls = {step: stacking(run.bench, name, **CLIPPING) for step, name in ours.items()}
    good = good_samples(run)
    values = xp.where(good, warps.image, xp.nan)
    weights = xp.asarray(run.bench.weights, dtype=xp.float32)
    peers = {
        "median": ("nanmedian", lambda: xp.nanmedian(values, axis=0)),
        "clipped mean": ("sigma clipping, array code", lambda: array_clip(xp, values)),
        "weighted mean": ("weighted mean, array code", lambda: array_mean(xp, warps.image, good, weights)),
    }
    check_statistics(run, calls, peers, good)
    for step, call in calls.items():
        seconds = run.time_step(step, call)
        run.target(f"{step}, share of copy", run.share(step), "at least", 0.75)
        run.peer(*peers[step], step, seconds, hoped=step != "weighted mean")


def check_statistics(run: Run, calls: dict[str, Any], peers: dict[str, Any], good: Any) -> None:
    """Raise AssertionError unless the median is NumPy's and all statistics agree with their peers."""
    host = backend.to_host
    rows = slice(0, BAND)
    expected = np.nanmedian(np.where(host(good[:, rows]), host(run.bench.warps.image[:, rows]), np.nan), axis=0)
    for step, call in calls.items():
        image = host(call().image)
        if step == "median":
            np.testing.assert_allclose(image[rows], expected, err_msg="gpucoadd, median", **ROUNDING)
        agree(step, image, host(peers[step][1]()))


def agree(step: str, ours: np.ndarray, other: np.ndarray) -> None:
    """Raise AssertionError unless two statistics are equal but for roundings; clipped ones, in most pixels."""
    assert (np.isfinite(ours) == np.isfinite(other)).all(), f"{step}: other pixels without data"
    both = np.isfinite(ours)
    if step != "clipped mean":
        np.testing.assert_allclose(ours[both], other[both], err_msg=step, rtol=1e-4, atol=1e-2)
        return
    # the first width is that of the quartiles in ours, the standard deviation in others
    rest = np.abs(ours[both] - other[both])
    assert np.median(rest) < 0.5 * SKY_SIGMA[1], f"clipped means differ by {np.median(rest)} in the median"


def ccdproc_statistics(run: Run) -> None:
    """ccdproc's `Combiner` on the same arrays, filled outside the clock."""
    try:
        calls = ccdproc_calls(run)
    except Exception as error:  # not installed; and the released one holds NumPy arrays only
        run.skip("ccdproc.Combiner", error)
        return
    for step, statistic, name, call in (
        ("median", "MEDIAN", "ccdproc.Combiner, median", calls[0]),
        ("clipped mean", "MEANCLIP", "ccdproc.Combiner, clip and average", calls[1]),
    ):
        ours = stacking(run.bench, statistic, **CLIPPING)
        agree(step, backend.to_host(ours().image), plain(call()))
        run.peer(name, call, step, timing.measure(ours, run.xp, repeats=3).median)


def ccdproc_calls(run: Run) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Median, and clipped average."""
    ccdproc = importlib.import_module("ccdproc")
    from astropy.nddata import CCDData

    bad = ~good_samples(run)
    images = zip(run.bench.warps.image, bad, strict=True)
    combiner = ccdproc.Combiner([CCDData(image, mask=mask, unit="adu") for image, mask in images])
    unclipped = combiner.mask.copy() if hasattr(combiner, "mask") else combiner.data_arr.mask.copy()

    def fresh() -> Any:
        if hasattr(combiner, "mask"):
            combiner.mask = unclipped.copy()
        else:
            combiner.data_arr.mask = unclipped.copy()
        return combiner

    def clipped() -> Any:
        fresh().sigma_clipping(SIGMA, SIGMA, func="median", dev_func="std")
        return combiner.average_combine()

    return lambda: fresh().median_combine(), clipped


def plain(image: Any) -> np.ndarray:
    """Pixels of a CCDData on the host, NaN where they are masked."""
    values = image.data if isinstance(image.data, np.ndarray) else backend.to_host(image.data)
    masked = image.mask if isinstance(image.mask, np.ndarray) else backend.to_host(image.mask)
    return np.where(masked, np.nan, values)


# The search ----------------------------------------------------------------------------------------------------------


def steps_of_search(run: Run) -> None:
    """Significance, growth, labels, epoch count; next to array code and the array module's labeller."""
    bench = run.bench
    check_significance(run)
    seconds = run.time_step("significance")
    run.target("significance, share of copy", run.share("significance"), "at least", 0.75)
    run.peer("significance, array code", lambda: array_significance(run), "significance", seconds, hoped=False)
    run.time_step("grow")
    run.time_step("epoch count")
    planes = [flags.planes() for flags in bench.grown]
    check_labels(run, planes)
    seconds = run.time_step("label")
    run.target("label, times its floor at copy speed", 1 / run.share("label"), "at most", 4.0)
    seconds = run.time("label and areas", lambda: [our_areas(flags) for flags in bench.grown])
    run.peer(
        "ndimage.label + sum_labels, epoch by epoch",
        lambda: [library_areas(run, plane) for group in planes for plane in group],
        "label and areas",
        seconds,
    )
    run.time("ndimage.label, all epochs in one call", lambda: [library_label(run, group) for group in planes])


def array_significance(run: Run) -> Any:
    """Pixels beyond the threshold, epoch by epoch."""
    xp, twins, sky = run.xp, run.bench.twins, run.bench.template
    limit = run.bench.config.detection.threshold
    return [
        xp.abs(image - sky.image) >= limit * xp.sqrt(variance + sky.variance)
        for image, variance in zip(twins.image, twins.variance)
    ]


def check_significance(run: Run) -> None:
    """Raise AssertionError unless array code finds the same pixels, but for roundings at the threshold."""
    excluded = run.bench.twins.schema.known_bitmask(run.bench.config.detection.exclude)
    expected = array_significance(run)
    n_different = n_found = 0
    for group, flags in zip(run.bench.groups, run.bench.detected):
        for epoch, plane in zip(range(group.start, group.stop), flags.planes()):
            usable = (run.bench.twins.mask[epoch] & excluded) == 0
            n_different += int((plane != (expected[epoch] & usable)).sum())
            n_found += int(plane.sum())
    assert n_found > 0, "nothing significant was found"
    assert n_different <= 1e-3 * n_found, f"{n_different} of {n_found} significant pixels differ from array code"


def our_areas(flags: Any) -> Any:
    """Pixels of each footprint."""
    _, labels, n = primitives.label(flags)
    return primitives.count_by_label(labels, n)[1:]


def library_areas(run: Run, plane: Any) -> Any:
    """The same of one plane, with what the array module's `ndimage` has."""
    ndimage = backend.ndimage(run.xp)
    labels, n = ndimage.label(plane, structure=run.xp.ones((3, 3), dtype=bool))
    return ndimage.sum_labels(plane, labels, run.xp.arange(1, n + 1))


def library_label(run: Run, planes: Any) -> tuple[Any, int]:
    """Labels of all epochs at once: neighbours within the plane only."""
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = True
    return backend.ndimage(run.xp).label(planes, structure=run.xp.asarray(structure))


def check_labels(run: Run, planes: list[Any]) -> None:
    """Raise AssertionError unless both labellers find footprints of the same areas, in the same order."""
    for flags, group in zip(run.bench.grown, planes):
        ours = backend.to_host(our_areas(flags))
        other = np.concatenate([backend.to_host(library_areas(run, plane)) for plane in group])
        np.testing.assert_array_equal(np.sort(ours), np.sort(other.astype(ours.dtype)), err_msg="areas")


# All of it -----------------------------------------------------------------------------------------------------------


def whole(run: Run) -> None:
    """The search and the coadd, of resident pixels."""
    check_coadd(run, gpucoadd.coadd(run.bench.warps, threads=run.bench.threads))
    run.time_step("find_artifacts")
    seconds = run.time_step("coadd")
    full = all(vars(run.args)[name] == value for name, value in FULL.items())
    run.target(
        f"coadd, seconds ({FULL['epochs']} epochs of {FULL['size']} x {FULL['size']})",
        seconds,
        "at most",
        COADD_SECONDS,
        judged=full,
    )


def check_coadd(run: Run, coadd: Coadd) -> None:
    """Raise AssertionError unless the trails went and the sky stayed."""
    field, size = run.bench.field, run.args.size
    assert coadd.artifacts is not None
    found = []
    for trail in field.trails:
        clipped = backend.to_host(coadd.artifacts.plane("clipped", trail.epoch))
        seen = np.isfinite(backend.to_host(run.bench.twins.image[trail.epoch]))
        found.append(clipped[(trail.distance(size) < 2.0) & seen].mean())
    assert min(found) > 0.8, f"only {min(found):.1%} of a planted trail was clipped"
    rest = backend.to_host(coadd.image) - field.sky
    assert abs(float(np.nanmedian(rest))) < 1.0, f"the coadd is off by {np.nanmedian(rest)} in the median"


def from_host(run: Run) -> None:
    """From warps in host memory to a coadd in host memory, next to the bare upload of the same pixels."""
    if not run.record["on_gpu"]:
        run.skip("end to end", ValueError("there is no bus on the host"))
        return
    xp, host = run.xp, run.host_field.warps

    def end_to_end(bring: Callable[[gpucoadd.WarpStack], gpucoadd.WarpStack]) -> Coadd:
        coadd = gpucoadd.coadd(bring(host), threads=run.bench.threads)
        for plane in (coadd.image, coadd.variance, coadd.mask, coadd.n_image):
            backend.to_host(plane)
        return coadd

    def streamed(warps: gpucoadd.WarpStack) -> gpucoadd.WarpStack:
        return warps.to_device(f"cuda:{xp.cuda.Device().id}")

    def upload(warps: gpucoadd.WarpStack) -> gpucoadd.WarpStack:
        return uploaded(xp, warps)

    expected = backend.to_host(gpucoadd.coadd(run.bench.warps, threads=run.bench.threads).image)
    np.testing.assert_array_equal(backend.to_host(end_to_end(streamed).image), expected, err_msg="streamed")
    transfer = run.time("upload of both stacks, pinned", lambda: uploaded(xp, host))
    run.record["results"]["upload of both stacks, pinned"]["bytes_over_bus"] = BOTH_STACKS * run.bench.n_samples
    seconds = run.time("end to end, streamed", lambda: end_to_end(streamed))
    run.target("end to end, streamed / upload", seconds / transfer, "at most", 1.3)
    seconds = run.time("end to end, upload first", lambda: end_to_end(upload))
    run.target("end to end, upload first / upload", seconds / transfer, "at most", None)


def uploaded(xp: Any, warps: gpucoadd.WarpStack) -> gpucoadd.WarpStack:
    """The same warps on the device."""
    planes = [xp.empty(plane.shape, dtype=plane.dtype) for plane in (warps.image, warps.variance, warps.mask)]
    for target, plane in zip(planes, (warps.image, warps.variance, warps.mask)):
        target.set(plane)
    twins = None if warps.psf_matched is None else uploaded(xp, warps.psf_matched)
    return gpucoadd.WarpStack(*planes, schema=warps.schema, psf_sigma=warps.psf_sigma, psf_matched=twins)


# Decorrelation -------------------------------------------------------------------------------------------------------


def fourier(run: Run) -> None:
    """Decorrelation in medians of its two transforms, and in cells."""
    check_decorrelation(run)
    for precision, ending in (("double", ""), ("single", ", single")):
        pair = run.time_step(f"FFT pair{ending}")
        seconds = run.time_step(f"decorrelate{ending}")
        run.target(f"decorrelate{ending} / FFT pair", seconds / pair, "at most", 2.0)
        if precision == "double":
            whole_seconds = seconds
    cells = run.time_step("decorrelate in cells")
    run.target("decorrelate in cells / whole", cells / whole_seconds, "at most", 2.0)
    try:
        call = sfft_call(run)
        agrees = max_difference(run, gpucoadd.decorrelate(*run.bench.difference.whole, **SKY).image, call())
        assert agrees < 1e-2, f"differs by {agrees:.2g} standard deviations"
    except Exception as error:  # not installed, or its parts are elsewhere in this release
        run.skip("sfft", error)
        return
    run.peer("sfft, decorrelation kernel and convolution", call, "decorrelate", whole_seconds)


SKY = {"science_variance": SCIENCE_VARIANCE, "template_variance": TEMPLATE_VARIANCE}


def sfft_call(run: Run) -> Callable[[], Any]:
    """sfft's decorrelation kernel on CuPy arrays and a convolution with it; no variances, no variance plane."""
    if not run.record["on_gpu"]:
        raise ImportError("this part of sfft takes CuPy arrays only; bench_decorrelation.py compares the other")
    calculator = importlib.import_module("sfft.utils.PureCupyDeCorrelationCalculator")
    kits = importlib.import_module("sfft.utils.PureCupyFFTKits")
    xp, scene = run.xp, run.bench.difference
    image = xp.asarray(scene.difference.image, dtype=xp.float64)
    matching = xp.asarray(scene.whole[-1])
    n_rows, n_columns = image.shape

    def call() -> Any:
        kernel = calculator.PureCupy_DeCorrelation_Calculator.PCDC(
            NX_IMG=n_rows,
            NY_IMG=n_columns,
            KERNEL_GPU_JQueue=[None],
            BKGSIG_JQueue=[SCIENCE_VARIANCE**0.5],
            KERNEL_GPU_IQueue=[None],
            BKGSIG_IQueue=[TEMPLATE_VARIANCE**0.5],
            MATCH_KERNEL_GPU=matching,
            REAL_OUTPUT=True,
            REAL_OUTPUT_SIZE=(DECORRELATION_STAMP, DECORRELATION_STAMP),
            VERBOSE_LEVEL=0,
        )
        return kits.PureCupy_FFTKits.FFT_CONVOLVE(PixA_Inp_GPU=image, KERNEL_GPU=kernel)

    return call


def max_difference(run: Run, one: Any, other: Any) -> float:
    """Largest difference of two images away from their edges, in standard deviations."""
    edge = min(DECORRELATION_STAMP, run.args.size // 4)
    inner = (slice(edge, -edge),) * 2
    return float(run.xp.abs(one[inner] - other[inner]).max() / one[inner].std())


def check_decorrelation(run: Run) -> None:
    """Raise AssertionError unless neighbours are uncorrelated afterwards, as a whole and in cells, in any precision."""
    scene = run.bench.difference
    before = correlation(run, scene.difference.image, scene)
    double = gpucoadd.decorrelate(*scene.whole, threads=run.bench.threads)
    single = gpucoadd.decorrelate(*scene.whole, threads=run.bench.threads, precision="single")
    cells = gpucoadd.decorrelate(*scene, cells=CELLS, threads=run.bench.threads)
    for name, image in (("whole", double.image), ("single", single.image), ("cells", cells.image)):
        after = correlation(run, image, scene)
        assert abs(after) < max(0.02, 0.2 * before), (
            f"{name}: correlation of neighbours {after:.3f}, before {before:.3f}"
        )
    error = max_difference(run, double.image, single.image)
    assert error < 1e-3, f"single precision differs by {error:.2g} standard deviations"


def correlation(run: Run, image: Any, scene: Any) -> float:
    """Correlation of neighbours along the rows, of pixels without a mask."""
    clean = scene.difference.mask == 0
    both = clean[:, 1:] & clean[:, :-1]
    left, right = (run.xp.where(both, part, run.xp.float32(0)) for part in (image[:, :-1], image[:, 1:]))
    return float((left * right).sum() / (left * left).sum())


# The run -------------------------------------------------------------------------------------------------------------

GROUPS: dict[str, Callable[[Run], None]] = {
    "statistics": statistics_of_stack,
    "search": steps_of_search,
    "whole": whole,
    "from-host": from_host,
    "fourier": fourier,
    "ccdproc": ccdproc_statistics,
}


def more_bytes(run: Run) -> tuple[int, int]:
    """About how many bytes of host and of device memory this takes beside the steps of `gpucoadd bench`."""
    n_samples = run.bench.n_samples
    if not run.record["on_gpu"]:
        return PEER_BYTES * n_samples, 0
    return BOTH_STACKS * n_samples, max(PEER_BYTES, BOTH_STACKS) * n_samples


def make_pixels(run: Run) -> None:
    """The stacks, in pinned host memory and on the device."""
    args, xp = run.args, run.xp
    if not run.record["on_gpu"]:
        run.host_field = run.bench.field
        return
    run.host_field = make_field(args.epochs, args.size, args.seed, empty=pinned)
    run.bench.field = Field(uploaded(xp, run.host_field.warps), run.host_field.sky, run.host_field.trails)


def report(run: Run) -> None:
    """What was hoped for, and what came."""
    say()
    for line in run.record["targets"]:
        verdict = {True: "met", False: "MISSED", None: "not judged"}[line["met"]]
        hope = "" if line["bound"] is None else f"   hoped for: {line['relation']} {line['bound']:g}: {verdict}"
        say(f"{line['what']:<72}{line['value']:10.3g}{hope}")
    for name, reason in run.record["failed"].items():
        say(f"FAILED: {name}: {reason}")
    if run.record["note"]:
        say(run.record["note"])


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--size", type=int, help="4200; 512 on the host")
    parser.add_argument("--epochs", type=int, help="30; 6 on the host")
    parser.add_argument("--repeats", type=int, help="10; 2 on the host")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of the host; one per processor when left out")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds after which a call is not repeated")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"comma-separated, of {', '.join(GROUPS)}")
    parser.add_argument("--json", metavar="FILE", help="write the record here, anew after every line")
    args = parser.parse_args()
    unknown = [name for name in args.only.split(",") if name not in GROUPS]
    if unknown:
        parser.error(f"--only: no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    return args


def main() -> int:
    """Check, time, report; the exit code is 1 if a group failed."""
    args = parsed()
    warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN pixels are an answer, not an accident
    warnings.filterwarnings("ignore", "Input data contains invalid values")  # astropy, of every NaN
    with benchmarking.on_device(args.device) as (xp, word):
        on_gpu = word != "cpu"
        for name, here, there in (("size", 512, FULL["size"]), ("epochs", 6, FULL["epochs"]), ("repeats", 2, 10)):
            if getattr(args, name) is None:
                setattr(args, name, there if on_gpu else here)
        run = Run(args, xp, word)
        benchmarking.check_room(run.bench, STEPS, more=more_bytes(run))
        say(f"{args.epochs} x {args.size} x {args.size}, seed {args.seed}, {word}; {processor()}")
        speeds(run)
        make_pixels(run)
        for name in args.only.split(","):
            try:
                GROUPS[name](run)
            except Exception as error:  # the other groups are still worth their time
                run.record["failed"][name] = " ".join(f"{type(error).__name__}: {error}".split())
                say(f"FAILED: {name}: {run.record['failed'][name]}")
                run.keep()
    run.record["complete"] = True
    run.keep()
    report(run)
    return 1 if run.record["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
