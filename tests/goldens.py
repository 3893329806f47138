"""Reference outputs of LSST's code: how they are read, and how a result is compared with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import oracles
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd

DATA = Path(__file__).parent / "data" / "coadd"

# Both sides sum in float64 and round to float32 once, but LSST shifts by another constant and its
# template has passed through float32; values of about 100 cancel down to 100 * eps(float32) = 1e-5.
IMAGE = {"rtol": 2e-5, "atol": 1e-5}
VARIANCE = {"rtol": 1e-4, "atol": 1e-5}
# LSST tabulates interpolation weights to four decimals; up to four neighbours' roundings add up.
INTERPOLATED = 2e-4
WEIGHTS = 1e-6
# The scale rests on a spline background, computed here and there in another order.
VARIANCE_SCALE = 1e-4
STREAKS = 0.85  # of the pixels that LSST clips for trails


class Golden(NamedTuple):
    """One file: `meta` and the arrays by name."""

    name: str
    meta: dict
    arrays: dict

    @property
    def planes(self):
        """Mask plane name to bit number."""
        return self.meta["mask_planes"]

    @property
    def overrides(self):
        """Dotted LSST configuration names that are off their defaults."""
        return self.meta.get("config_overrides", {})

    @property
    def schema(self):
        return gpucoadd.MaskSchema(self.planes)

    def __getitem__(self, name):
        return self.arrays[name]


def paths():
    """Files that come with the tests, and those in $GPUCOADD_GOLDENS/coadd."""
    found = {p.stem: p for p in sorted(DATA.glob("*.npz"))}
    folder = os.environ.get("GPUCOADD_GOLDENS")
    if folder:
        more = sorted((Path(folder) / "coadd").glob("*.npz"))
        if not more:
            raise FileNotFoundError(f"GPUCOADD_GOLDENS={folder} has no coadd/*.npz")
        found.update({p.stem: p for p in more})
    return list(found.values())


def load(path):
    """One golden file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        meta = json.loads(str(file["meta"]))
    return Golden(Path(path).stem, meta, arrays)


def warp_stack(golden, to_device=lambda array: array):
    """`WarpStack` of the direct warps with their twins; epochs are numbered as in the file."""
    x0, y0 = (int(v) for v in golden["in_xy0"])
    common = {"schema": golden.schema, "origin": (y0, x0)}
    matched = None
    have = np.flatnonzero(golden["in_has_matched"])
    if "in_m_image" in golden.arrays and len(have):
        planes = [to_device(golden[f"in_m_{k}"][have]) for k in ("image", "variance", "mask")]
        sigma = golden["in_m_sigma"][have]
        matched = gpucoadd.WarpStack(*planes, psf_sigma=sigma, epochs=[int(e) for e in have], **common)
    planes = [to_device(golden[f"in_{k}"]) for k in ("image", "variance", "mask")]
    return gpucoadd.WarpStack(*planes, psf_sigma=golden["in_sigma"], psf_matched=matched, **common)


def run(golden, warps=None):
    """`coadd` or `assemble`, as the file asks, with its configuration."""
    warps = warp_stack(golden) if warps is None else warps
    if golden.meta.get("base_task"):
        return gpucoadd.assemble(warps, config=gpucoadd.AssemblyConfig.from_lsst(golden.overrides))
    return gpucoadd.coadd(warps, config=gpucoadd.CoaddConfig.from_lsst(golden.overrides))


def host(array):
    """NumPy array of what may be on the device."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def translate(mask, schema, planes):
    """`mask` with the bits of `planes`; AssertionError if a plane unknown there is set."""
    mask = host(mask)
    out = np.zeros_like(mask)
    for name, bit in schema.planes.items():
        has = mask >> bit & 1 != 0
        if name in planes:
            out[has] |= 1 << planes[name]
        else:
            assert not has.any(), f"plane {name} is set; the reference does not have it"
    return out


def check_mask(mask, schema, golden, expected, message="mask"):
    """Every plane equal; the message names the planes that are not."""
    got = translate(mask, schema, golden.planes)
    wrong = {n: int(np.count_nonzero((got ^ expected) >> b & 1)) for n, b in golden.planes.items()}
    wrong = {n: count for n, count in wrong.items() if count}
    assert not wrong, f"{message}: pixels that differ, by plane: {wrong}"


def check_same_footprints(labels, expected):
    """Equal up to the numbering."""
    labels, expected = host(labels), host(expected)
    assert_array_equal(labels > 0, expected > 0, err_msg="template_footprints: covered pixels")
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist()))
    n = len(np.unique(labels))
    assert len(pairs) == n == len(np.unique(expected)), "template_footprints: divided otherwise"


def _missing_runs(missing):
    """(y, first, last) of each run of missing pixels in a row."""
    for y, row in enumerate(missing):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        for first, last in zip(edges[::2], edges[1::2] - 1):
            yield y, int(first), int(last)


def interpolation_tolerance(plane, missing, fallback):
    """Per pixel: what interpolation from four-decimal tables may be off by; inf where it is not compared."""
    tolerance = np.zeros(plane.shape)
    width = plane.shape[1]
    finite = np.where(np.isfinite(plane), np.abs(plane), 0.0)
    for y, first, last in _missing_runs(missing):
        near = [x for x in (first - 2, first - 1, last + 1, last + 2) if 0 <= x < width and not missing[y, x]]
        largest = max([fallback] + [float(finite[y, x]) for x in near])
        at_border = first == 0 or last == width - 1
        placeholder = at_border and last - first == 6  # LSST takes a placeholder for a neighbour there
        tolerance[y, first : last + 1] = np.inf if placeholder else INTERPOLATED * largest
    return tolerance


def _check_float(name, got, expected, tolerance, missing, fallback):
    got = host(got).astype(np.float64)
    expected = expected.astype(np.float64)
    assert got.shape == expected.shape, name
    loose = interpolation_tolerance(expected, missing, fallback)
    compared = np.isfinite(loose)
    assert_array_equal(np.isnan(got)[compared], np.isnan(expected)[compared], err_msg=f"{name}: NaN")
    assert_array_equal(np.isinf(got)[compared], np.isinf(expected)[compared], err_msg=f"{name}: inf")
    compared &= np.isfinite(expected)
    error = np.abs(got[compared] - expected[compared])
    allowed = (tolerance["atol"] + tolerance["rtol"] * np.abs(expected) + loose)[compared]
    worst = int(np.argmax(error - allowed)) if error.size else 0
    n_wrong = int(np.count_nonzero(error > allowed))
    where = np.argwhere(compared)[worst].tolist() if error.size else []
    assert n_wrong == 0, (
        f"{name}: {n_wrong} pixels differ; worst {error[worst]:g} > {allowed[worst]:g} at {where}: "
        f"{got[tuple(where)]:g} instead of {expected[tuple(where)]:g}"
    )


def check_planes(name, result, golden, image, variance, mask):
    """Image, variance, mask of `result` (after post-processing) against three golden planes."""
    check_mask(result.mask, result.schema, golden, mask, message=f"{name}mask")
    missing = mask >> golden.planes["NO_DATA"] & 1 != 0
    finite = image[np.isfinite(image) & ~missing]
    fallback = max(float(np.median(finite)), 0.0) if finite.size else 0.0
    task = "assembleStaticSkyModel." if name == "template " else ""
    transpose = golden.overrides.get(f"{task}interpImage.transpose", False)
    for key, expected, tolerance in (("image", image, IMAGE), ("variance", variance, VARIANCE)):
        got = host(getattr(result, key))
        if transpose:
            _check_float(f"{name}{key}", got.T, expected.T, tolerance, missing.T, fallback)
        else:
            _check_float(f"{name}{key}", got, expected, tolerance, missing, fallback)


def final_planes(golden):
    """Image, variance, mask of the coadd after post-processing."""
    if golden.meta.get("base_task"):
        return tuple(golden[f"out_coadd_{k}"] for k in ("image", "variance", "mask"))
    y, x = golden["out_final_yx"].T
    planes = []
    for k in ("image", "variance", "mask"):
        plane = golden[f"out_coadd_raw_{k}"].copy()
        plane[y, x] = golden[f"out_final_{k}"]
        planes.append(plane)
    return tuple(planes)


def check_coadd(result, golden):
    """AssertionError unless the `Coadd` agrees with the golden at its tolerances."""
    x0, y0 = golden["in_xy0"]
    assert tuple(result.origin) == (y0, x0)
    assert result.unit == "nJy"
    assert_array_equal([int(e) for e in result.epochs], golden["out_used_epochs"], err_msg="epochs")
    assert host(result.weights).dtype == np.float64
    assert_allclose(host(result.weights), golden["out_weights"], rtol=WEIGHTS, err_msg="weights")
    if not golden.meta.get("base_task"):
        scale = host(result.variance_scale)
        assert_allclose(scale, golden["out_variance_scale"], rtol=VARIANCE_SCALE, err_msg="variance_scale")
        template = [golden[f"out_template_{k}"] for k in ("image", "variance", "mask")]
        check_planes("template ", result.template, golden, *template)
        if "out_template_footprints" in golden.arrays:  # else bright sources are not protected
            check_same_footprints(result.template_footprints, golden["out_template_footprints"])
        else:
            assert not host(result.template_footprints).any()
        for name, key in (
            ("epoch_count", "epoch_count"),
            ("n_image_matched", "n_image_diff"),
            ("no_data", "alt_no_data"),
            ("edge", "alt_edge"),
            ("clipped", "alt_clipped"),
        ):
            assert_array_equal(host(getattr(result, name)), golden[f"out_{key}"], err_msg=name)
    assert_array_equal(host(result.n_image), golden["out_n_image"], err_msg="n_image")
    check_planes("", result, golden, *final_planes(golden))


def check_streaks(result, without, golden):
    """
    AssertionError unless a `Coadd` made with LSST's streak masking agrees with the golden.

    LSST finds its lines in another way, and fewer of them. What it clipped for a trail has to be clipped; what is
    clipped without trails, too; and all pixels at which the same epochs were clipped have to agree as ever.

    Parameters
    ----------
    result, without : Coadd
        With streak masking, and from the same warps without it.
    golden : Golden
    """
    ours, theirs, plain = host(result.clipped), golden["out_alt_clipped"], host(without.clipped)
    assert not (plain & ~theirs).any(), "clipped without trails, but not in the reference"
    assert not (plain & ~ours).any(), "clipped without trails, but not with them"
    of_streaks = theirs & ~plain
    share = (ours & of_streaks).sum() / of_streaks.sum()
    assert share >= STREAKS, f"{share:.2f} of the pixels that LSST clipped for trails are clipped"
    arrays = dict(golden.arrays, out_alt_clipped=ours)
    differ = (ours ^ theirs).any(axis=0)
    arrays["out_n_image"] = np.where(differ, host(result.n_image), golden["out_n_image"])
    arrays["out_final_yx"] = np.argwhere(np.ones(differ.shape, bool))
    for name, plane in zip(("image", "variance", "mask"), final_planes(golden), strict=True):
        got = host(getattr(result, name))
        got = translate(got, result.schema, golden.planes) if name == "mask" else got
        arrays[f"out_coadd_raw_{name}"] = np.where(differ, got, plane)
        arrays[f"out_final_{name}"] = arrays[f"out_coadd_raw_{name}"].ravel()
    check_coadd(result, golden._replace(arrays=arrays))


def check_statistics(golden, to_device=lambda array: array):
    """`stack` against every output of a file of stack statistics."""
    image, variance, mask, weights = (golden[f"in_{k}"] for k in ("image", "variance", "mask", "weights"))
    reject = golden.meta["and_mask"]
    bits = golden.schema.bitmask(*reject)
    # Where all good samples are one value, its scatter is 0 or a rounding error, and what is divided by it anything.
    good = np.isfinite(image) & (mask & bits == 0)
    highest = np.where(good, image, -np.inf).max(axis=0)
    coincide = ~(highest > np.where(good, image, np.inf).min(axis=0))
    for key in (k for k in golden.arrays if k.startswith("out_") and k.endswith("_image")):
        _, statistic, sigma, iterations, error, _ = key.split("_")
        result = gpucoadd.stack(
            *map(to_device, (image, variance, mask)),
            weights,
            statistic=statistic,
            reject=reject,
            sigma_clip=float(sigma[1:]),
            clip_iterations=int(iterations[1:]),
            error_from_input_variance=error == "inputvar",
            propagation=golden.meta["mask_propagation_thresholds"],
            schema=golden.schema,
            lsst_extremes=True,
        )
        expected = {k: golden[f"{key[:-5]}{k}"] for k in ("image", "variance", "mask")}
        check_mask(result.mask, result.schema, golden, expected["mask"], message=key)
        for plane, tolerance in (("image", IMAGE), ("variance", VARIANCE)):
            got, want = host(getattr(result, plane)).copy(), expected[plane].copy()
            if "VARIANCE" in statistic or "STDEV" in statistic or statistic == "MEDIAN" or error == "scatter":
                # One sample's scatter is 0/0: NaN or inf, as rounding has it.
                undefined = coincide & ~np.isfinite(got) & ~np.isfinite(want)
                rounding = coincide & (np.nan_to_num(got, posinf=0) < 1e-6) & (np.nan_to_num(want, posinf=0) < 1e-6)
                got[undefined | rounding] = want[undefined | rounding] = 0
            assert_allclose(got, want, equal_nan=True, err_msg=f"{key[:-6]} {plane}", **tolerance)


def from_oracle(inputs, planes, overrides, *, base_task=False):
    """A golden whose outputs are those of `oracles`, so that `check_coadd` compares with the definition."""
    results = (oracles.base_task if base_task else oracles.compare_warp)(inputs, planes, overrides)
    arrays = dict(inputs) | {f"out_{name}": value for name, value in results.items()}
    arrays["out_final_yx"] = np.argwhere(np.ones(results["coadd_mask"].shape, bool))
    y, x = arrays["out_final_yx"].T
    arrays |= {f"out_final_{k}": results[f"coadd_{k}"][y, x] for k in ("image", "variance", "mask")}
    meta = {"mask_planes": planes, "config_overrides": overrides, "base_task": base_task}
    return Golden("oracle", meta, arrays)
