"""
Slow, obvious definitions of artifact-rejecting coaddition.

Written from the description of LSST's CompareWarp, in plain Python where that is
clearest, and sharing no code with the package: a second opinion to test against.
Names of options are LSST's. Only for small images.
"""

from __future__ import annotations

import math
import statistics as plain_statistics
from itertools import pairwise

import numpy as np
from scipy.interpolate import Akima1DInterpolator, CubicSpline

IQR_TO_SIGMA = 0.741301109252802  # sigma of a Gaussian whose quartiles are one apart
STATISTICS = (
    "MEAN",
    "MEDIAN",
    "MEANCLIP",
    "VARIANCE",
    "VARIANCECLIP",
    "STDEV",
    "STDEVCLIP",
    "MEANSQUARE",
    "SUM",
    "MIN",
    "MAX",
    "IQRANGE",
    "NPOINT",
    "NCLIPPED",
    "NMASKED",
)


class NoWorkFound(Exception):
    """Nothing to coadd."""


class TooManyMaskedPixels(Exception):
    """A background has nothing to rest on."""


# ---------------------------------------------------------------------------------------
# Statistics of one pixel


def quantile(values, fraction):
    """Linearly interpolated quantile of a list of finite numbers."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def interquartile_range(values):
    """75 % minus 25 % quantile."""
    return quantile(values, 0.75) - quantile(values, 0.25)


def moments(values, weights):
    """Sum of weights, sum of their squares, weighted mean, weighted de-biased variance (NaN for one sample)."""
    if not values:
        return 0.0, 0.0, math.nan, math.nan
    total = math.fsum(weights)
    total_of_squares = math.fsum(w * w for w in weights)
    shift = values[0]  # makes the mean of equal values that value, without rounding
    mean = shift + math.fsum(w * (v - shift) for v, w in zip(values, weights)) / total
    if len(values) == 1:
        return total, total_of_squares, mean, math.nan
    scatter = math.fsum(w * (v - mean) ** 2 for v, w in zip(values, weights)) / total
    return total, total_of_squares, mean, scatter * total**2 / (total**2 - total_of_squares)


def variance_of_mean(variances, weights, scatter, from_input):
    """Variance of the weighted mean: propagated from the inputs, or from their scatter."""
    total, total_of_squares = math.fsum(weights), math.fsum(w * w for w in weights)
    if not weights:
        return math.nan
    if from_input:
        return _sum(w * w * s for s, w in zip(variances, weights)) / total**2
    return scatter * total_of_squares / total**2


def clip(values, weights, sigma_clip, clip_iterations):
    """
    Indices of the samples that clipping keeps.

    Every round starts from all samples again; exactly `clip_iterations` rounds are made.
    """
    kept = list(range(len(values)))
    for iteration in range(clip_iterations):
        if iteration == 0:
            centre = quantile(values, 0.5)
            half_width = sigma_clip * IQR_TO_SIGMA * interquartile_range(values)
        else:
            _, _, centre, scatter = moments([values[i] for i in kept], [weights[i] for i in kept])
            if len(values) == 1:
                half_width = sigma_clip * IQR_TO_SIGMA * interquartile_range(values)
            elif math.isnan(scatter):
                half_width = math.nan
            else:
                half_width = sigma_clip * math.sqrt(max(scatter, 0.0))
        kept = [i for i, v in enumerate(values) if abs(v - centre) <= half_width]  # NaN keeps nothing
    return kept


def _sum(numbers):
    """Exact sum; NaN for infinities of both signs."""
    numbers = list(numbers)
    return math.nan if {math.inf, -math.inf} <= set(numbers) else math.fsum(numbers)


def _divide(a, b):
    return a / b if b != 0 else math.nan


def _statistic(statistic, values, variances, weights, n_samples, sigma_clip, clip_iterations, from_input):
    """(value, variance, number clipped) of at least one good sample."""
    n = len(values)
    kept = list(range(n))
    if statistic in ("MEANCLIP", "VARIANCECLIP", "STDEVCLIP"):
        kept = clip(values, weights, sigma_clip, clip_iterations)
    n_clipped = n - len(kept)
    kept_weights = [weights[i] for i in kept]
    _, _, mean, scatter = moments([values[i] for i in kept], kept_weights)
    count = len(kept)
    variance_of_scatter = 2 * (count - 1) * scatter**2 / count**2 if count else math.nan
    spread = math.sqrt(scatter) if scatter >= 0 else math.nan
    plain = {
        "SUM": (math.fsum(w * v for v, w in zip(values, weights)), 0.0),
        "MIN": (min(values), 0.0),
        "MAX": (max(values), 0.0),
        "NPOINT": (n, 0.0),
        "NCLIPPED": (0, 0.0),
        "NMASKED": (n_samples - n, 0.0),
        "IQRANGE": (interquartile_range(values), math.nan),
        "MEDIAN": (plain_statistics.median(values), math.pi / 2 * scatter / n),
    }
    if statistic in plain:
        return *plain[statistic], 0
    if statistic in ("MEAN", "MEANCLIP"):
        error = variance_of_mean([variances[i] for i in kept], kept_weights, scatter, from_input)
        return mean, error, n_clipped
    if statistic == "VARIANCE":
        return scatter, variance_of_scatter, 0
    if statistic == "VARIANCECLIP":
        return scatter, math.nan, n_clipped
    if statistic in ("STDEV", "STDEVCLIP"):
        return spread, _divide(0.5 * math.sqrt(variance_of_scatter), spread) ** 2, n_clipped
    if statistic == "MEANSQUARE":
        value = (n - 1) / n * scatter + mean**2
        return value, 2 * (value / n) ** 2, 0
    raise ValueError(f"no statistic {statistic!r}")


def stack_pixel(
    values,
    variances,
    masks,
    weights,
    statistic,
    *,
    reject_bits,
    sigma_clip=3.0,
    clip_iterations=2,
    from_input=True,
    propagation=None,
    mask_map=(),
    no_data_bit=0,
    clipped_bit=0,
):
    """
    One pixel of a stack: (value, variance, mask).

    Parameters
    ----------
    values, variances, masks, weights : sequences, one entry per epoch
    statistic : str
        One of `STATISTICS`.
    reject_bits : int
        A sample with one of these bits is not good; nor is one that is not finite.
    propagation : dict of int to float
        Bit (as a mask with one bit set) to the weight fraction above which it is set.
    mask_map : sequence of (int, int)
        (from, to): set `to` where a sample has a bit of `from` and a sample is missing.
    no_data_bit, clipped_bit : int
        What a pixel without good samples, and one with clipped samples, is marked with.
    """
    values = [float(np.float32(v)) for v in values]
    variances = [float(np.float32(s)) for s in variances]
    weights = [float(np.float32(w)) for w in weights]
    masks = [int(m) for m in masks]
    good = [i for i, v in enumerate(values) if math.isfinite(v) and masks[i] & reject_bits == 0]
    bad = [i for i in range(len(values)) if i not in good]

    mask = 0
    for i in good:
        mask |= masks[i]
    for bit, threshold in (propagation or {}).items():
        rejected = math.fsum(weights[i] for i in bad if masks[i] & bit)
        everything = math.fsum(weights[i] for i in good) + rejected
        if everything > 0 and rejected / everything > threshold:
            mask |= bit

    n_clipped = 0
    if good:
        value, variance, n_clipped = _statistic(
            statistic,
            [values[i] for i in good],
            [variances[i] for i in good],
            [weights[i] for i in good],
            len(values),
            sigma_clip,
            clip_iterations,
            from_input,
        )
    else:
        empty = {"SUM": (0.0, 0.0), "NPOINT": (0.0, 0.0), "NCLIPPED": (0.0, 0.0), "NMASKED": (len(values), 0.0)}
        empty |= {"MIN": (math.nan, 0.0), "MAX": (math.nan, 0.0)}
        value, variance = empty.get(statistic, (math.nan, math.nan))
        mask = no_data_bit
    if n_clipped > 0:
        mask |= clipped_bit
    if len(good) < len(values):
        for source, target in mask_map:
            if any(m & source for m in masks):
                mask |= target
    with np.errstate(over="ignore"):
        return np.float32(value), np.float32(variance), mask


def lsst_extreme(values, masks, weights, statistic, *, reject_bits):
    """MIN or MAX as LSST finds it: the search starts from the weighted sum over the count."""
    good = [
        (float(np.float32(v)), float(np.float32(w)))
        for v, m, w in zip(values, masks, weights)
        if math.isfinite(v) and int(m) & reject_bits == 0
    ]
    if not good:
        return np.float32(math.nan)
    start = math.fsum(v * w for v, w in good) / len(good)
    pick = min if statistic == "MIN" else max
    return np.float32(pick([start] + [v for v, _ in good]))


def stack(image, variance, mask, weights, statistic, **options):
    """`stack_pixel` at every pixel of (epoch, y, x) arrays: image, variance, mask."""
    shape = image.shape[1:]
    out = np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros(shape, np.int32)
    for y, x in np.ndindex(*shape):
        pixel = stack_pixel(image[:, y, x], variance[:, y, x], mask[:, y, x], weights, statistic, **options)
        for plane, number in zip(out, pixel):
            plane[y, x] = number
    return out


def online_mean(
    image, variance, mask, weights, *, reject_bits, from_input=True, propagation=None, mask_map=(), no_data_bit=0
):
    """
    The running-sum mean: image, variance, mask, count.

    LSST looks at masks only, never at the image, and lets a NaN without a flag through; here such a sample
    is left out of the sums, yet counted.
    """
    shape = image.shape[1:]
    out = [np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)]
    out_mask, count = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    thresholds = {1 << b: 1.0 for b in range(31) if reject_bits >> b & 1}
    thresholds.update({b: t for b, t in (propagation or {}).items() if b & reject_bits})
    for y, x in np.ndindex(*shape):
        sum_w = sum_wv = sum_error = sum_ww = sum_wvv = 0.0
        lost = n_summed = 0
        rejected = dict.fromkeys(thresholds, 0.0)
        bits = 0
        for v, s, m, w in zip(image[:, y, x], variance[:, y, x], mask[:, y, x], weights):
            v, s, m, w = float(v), float(s), int(m), float(w)
            if m & reject_bits:
                lost |= m & reject_bits
                for bit in rejected:
                    rejected[bit] += w if m & bit else 0.0
                continue
            count[y, x] += 1
            if not math.isfinite(v):
                continue
            n_summed += 1
            bits |= m
            sum_w += w
            sum_wv += w * v
            sum_error += w * w * s
            sum_ww += w * w
            sum_wvv += w * v * v
        for bit, amount in rejected.items():
            if sum_w + amount > 0 and amount / (sum_w + amount) > thresholds[bit]:
                bits |= bit
        for source, target in mask_map:
            if lost & source:
                bits |= target
        if sum_w > 0:
            mean = sum_wv / sum_w
            out[0][y, x] = mean
            if from_input:
                out[1][y, x] = sum_error / sum_w**2
            elif n_summed > 1:
                scatter = (sum_wvv / sum_w - mean**2) * sum_w**2 / (sum_w**2 - sum_ww)
                out[1][y, x] = scatter * sum_ww / sum_w**2
        else:
            bits |= no_data_bit
        out_mask[y, x] = bits
    return *out, out_mask, count


# ---------------------------------------------------------------------------------------
# Pixel sets


def flood_fill(detected):
    """
    Label 8-connected pieces of a (y, x) or (epoch, y, x) bool array: labels, number of pieces.

    Numbers follow the raster order of each piece's first pixel, on from epoch to epoch.
    """
    detected = np.asarray(detected, dtype=bool)
    planes = detected if detected.ndim == 3 else detected[None]
    labels = np.zeros(planes.shape, np.int32)
    height, width = planes.shape[1:]
    n = 0
    for epoch, y, x in np.argwhere(planes):
        if labels[epoch, y, x]:
            continue
        n += 1
        labels[epoch, y, x] = n
        todo = [(y, x)]
        while todo:
            cy, cx = todo.pop()
            for ny in range(max(cy - 1, 0), min(cy + 2, height)):
                for nx in range(max(cx - 1, 0), min(cx + 2, width)):
                    if planes[epoch, ny, nx] and not labels[epoch, ny, nx]:
                        labels[epoch, ny, nx] = n
                        todo.append((ny, nx))
    return labels.reshape(detected.shape), n


def stencil(radius, shape="disc"):
    """Offsets (dy, dx) of a disc or a diamond."""
    inside = {"disc": lambda y, x: x * x + y * y <= radius * radius, "diamond": lambda y, x: abs(x) + abs(y) <= radius}
    span = range(-radius, radius + 1)
    return [(dy, dx) for dy in span for dx in span if inside[shape](dy, dx)]


def dilate(detected, radius, shape="disc"):
    """Every pixel that a stencil centred on a detected one covers, inside its own (last two axes) plane."""
    detected = np.asarray(detected, dtype=bool)
    height, width = detected.shape[-2:]
    grown = np.zeros_like(detected)
    for dy, dx in stencil(radius, shape):
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
        if abs(dy) < height and abs(dx) < width:
            grown[..., to_y, to_x] |= detected[..., from_y, from_x]
    return grown


def footprints(labels):
    """Boolean index of each label in turn."""
    for number in np.unique(labels[labels > 0]):
        yield labels == number


def union(planes, shape):
    """OR of boolean planes."""
    out = np.zeros(shape, bool)
    for plane in planes:
        out |= plane
    return out


def mostly_good(footprint, mask, bad_bits, ratio=0.05):
    """Whether a large enough part of a footprint is free of bad pixels."""
    return np.count_nonzero(mask[footprint] & bad_bits == 0) / np.count_nonzero(footprint) > ratio


def prefilter(labels, mask, *, bad_bits, ratio=0.05):
    """Pixels of the footprints of one epoch that do not lie mostly on bad pixels."""
    return union((f for f in footprints(labels) if mostly_good(f, mask, bad_bits, ratio)), labels.shape)


def epoch_limit(mean_n_image, max_epochs=2, fraction_low=0.4, fraction_high=0.03):
    """In how many epochs an artifact may appear."""
    return int(min(fraction_low * mean_n_image, max_epochs + fraction_high * mean_n_image))


def is_artifact(
    footprint,
    epoch_count,
    n_image,
    protected=(),
    *,
    max_epochs=2,
    fraction_low=0.4,
    fraction_high=0.03,
    spatial_threshold=0.5,
):
    """Whether a footprint is rare, and not wholly inside a single one of the `protected` boolean planes."""
    area = np.count_nonzero(footprint)
    mean = int(n_image[footprint].astype(np.int64).sum()) / area
    limit = epoch_limit(mean, max_epochs, fraction_low, fraction_high)
    counts = epoch_count[footprint]
    if not np.count_nonzero((counts > 0) & (counts <= limit)) / area > spatial_threshold:
        return False
    return not any(source[footprint].all() for source in protected)


def filter_artifacts(labels, epoch_count, n_image, protected=None, **rule):
    """Pixels of the footprints of one epoch that are artifacts; `protected` labels the template's bright sources."""
    sources = [] if protected is None else list(footprints(protected))
    artifacts = (f for f in footprints(labels) if is_artifact(f, epoch_count, n_image, sources, **rule))
    return union(artifacts, labels.shape)


# ---------------------------------------------------------------------------------------
# Detection


def clipped_deviation(image):
    """Standard deviation of the finite pixels after clipping at 3 sigma three times."""
    kept = clipped_samples(image[np.isfinite(image)])
    return float(kept.std(ddof=1)) if kept.size > 1 else math.nan


def detect(
    image,
    variance,
    *,
    threshold=5.0,
    polarity="positive",
    threshold_type="pixel_stdev",
    min_pixels=1,
    include_multiplier=1.0,
    n_sigma_to_grow=2.4,
    psf_sigma=0.0,
    isotropic=True,
    combined=True,
    original=False,
    searched=None,
    excluded=None,
):
    """
    Footprints of one image: a list of boolean planes, and the pixels marked as positive and as negative.

    Footprints may overlap where one polarity is grown but not combined. `searched` restricts the
    search (not the growing) to some pixels; the image is zero where it is `excluded`.
    """
    image, variance = np.array(image, np.float64), np.asarray(variance, np.float64)
    if excluded is not None:
        image[excluded] = 0.0
    searched = np.ones(image.shape, bool) if searched is None else searched
    radius = int(n_sigma_to_grow * psf_sigma + 0.5)
    stencil_shape = "disc" if isotropic else "diamond"
    if threshold_type == "pixel_stdev":
        with np.errstate(invalid="ignore"):
            noise = np.where(variance < np.inf, np.sqrt(variance), np.nan)
    elif threshold_type == "value":
        noise = 1.0
    else:  # "variance" too is a multiple of the deviation
        noise = clipped_deviation(image[searched])
    found, marked = [], {}
    for sign, name in ((1, "positive"), (-1, "negative")):
        marked[name] = np.zeros(image.shape, bool)
        if polarity not in (name, "both"):
            continue
        with np.errstate(invalid="ignore"):
            above = searched & (sign * image >= threshold * noise)
            peak = searched & (sign * image >= include_multiplier * threshold * noise)
        kept = [f for f in footprints(flood_fill(above)[0]) if np.count_nonzero(f) >= min_pixels and peak[f].any()]
        grown = [dilate(f, radius, stencil_shape) for f in kept]
        marked[name] = union(grown, image.shape)
        if not original and combined:
            kept = list(footprints(flood_fill(marked[name])[0]))
        elif not original:
            kept = grown
        found += kept
    if polarity == "both":
        found = list(footprints(flood_fill(union(found, image.shape))[0]))
    return found, marked


def gaussian_kernel(sigma, n_sigma=7.0):
    """Normalised Gaussian of odd full width."""
    half = (int(n_sigma * sigma + 0.5) // 2 * 2 + 1) // 2
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-half, half + 1)]
    return [t / math.fsum(taps) for t in taps], half


def convolve(image, taps, half):
    """Separable convolution; pixels nearer than `half` to the border are NaN."""
    out = np.asarray(image, np.float64)
    for axis in (0, 1):
        total = np.zeros(out.shape)
        with np.errstate(invalid="ignore"):
            for offset, tap in zip(range(-half, half + 1), taps):
                total = total + tap * np.roll(out, offset, axis)
        out = total
    inside = np.zeros(out.shape, bool)
    inside[half : out.shape[0] - half, half : out.shape[1] - half] = True
    return np.where(inside, out, np.nan), inside


def template_footprints(
    image,
    variance,
    psf_sigma,
    *,
    threshold=300.0,
    n_sigma_to_grow=2.4,
    factor_step=1.25,
    max_attempts=10,
    kernel_sigmas=7.0,
    background_wanted=True,
    **options,
):
    """Footprints (boolean planes) of the bright sources of the template, found on the smoothed template."""
    taps, half = gaussian_kernel(psf_sigma, kernel_sigmas)
    smooth, inside = convolve(image, taps, half)
    smooth_variance, _ = convolve(variance, [t * t for t in taps], half)
    smooth, smooth_variance = smooth.astype(np.float32), smooth_variance.astype(np.float32)
    factor = 1.0
    if not inside.any():
        return []
    for attempt in range(max_attempts):
        found, _ = detect(
            smooth,
            smooth_variance,
            threshold=threshold * factor,
            n_sigma_to_grow=n_sigma_to_grow,
            psf_sigma=psf_sigma,
            searched=inside,
            **options,
        )
        covered = union(found, inside.shape) | ~inside
        if not (background_wanted and covered.all()):  # else nothing is left to estimate a background from
            return found
        if attempt > int(0.4 * max_attempts):
            factor *= factor_step
    raise TooManyMaskedPixels("the template is detected everywhere")


# ---------------------------------------------------------------------------------------
# Interpolation of missing pixels


def kriging_weights(neighbours, x):
    """Weights, summing to one, of the best linear predictor at `x` for correlation exp(-d^2 / 4)."""
    n = len(neighbours)
    system, right = np.ones((n + 1, n + 1)), np.ones(n + 1)
    system[n, n] = 0.0
    for i, a in enumerate(neighbours):
        right[i] = math.exp(-((a - x) ** 2) / 4)
        for j, b in enumerate(neighbours):
            system[i, j] = math.exp(-((a - b) ** 2) / 4)
    return np.linalg.solve(system, right)[:n]


def kriging_interpolate(row, bad, fallback=0.0, fallback_at_edge=True):
    """One row with its bad pixels replaced; `fallback_at_edge`: long border runs take the fallback value."""
    row, bad = np.array(row, np.float32), np.array(bad, dtype=bool)
    width = len(row)
    if bad.all():
        return np.full(width, fallback, np.float32)
    out = row.copy()
    usable = ~bad
    for first, last in _runs(bad):
        values, known = row.copy(), usable.copy()
        if not fallback_at_edge:
            pass
        elif first == 0 and last > 5:
            values[: last - 5], known[: last - 5] = fallback, True
            out[: last - 5] = fallback
            first = last - 5
        elif last == width - 1 and width - first > 6:
            values[first + 6 :], known[first + 6 :] = fallback, True
            out[first + 6 :] = fallback
            last = first + 5
        near = [p for p in (first - 1, last + 1) if 0 <= p < width]
        far = [q for p, q in ((first - 1, first - 2), (last + 1, last + 2)) if p in near]
        neighbours = near + [q for q in far if 0 <= q < width and known[q]]
        for x in range(first, last + 1):
            weights = kriging_weights(neighbours, x)
            with np.errstate(invalid="ignore"):
                value = float(sum(w * float(values[p]) for w, p in zip(weights, neighbours)))
                if math.isnan(value):
                    value = float(sum(float(values[p]) for p in near) / len(near))
            out[x] = value
    return out


def _runs(bad):
    """First and last index of every maximal run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), (edges[1::2] - 1).tolist()))


def border_runs_of_seven(bad):
    """Pixels of border runs of exactly 7 bad pixels, where LSST uses a placeholder as a neighbour."""
    found = np.zeros(bad.shape, bool)
    for y, row in enumerate(bad):
        for first, last in _runs(row):
            if last - first == 6 and (first == 0 or last == len(row) - 1):
                found[y, first : last + 1] = True
    return found


def fallback_value(image, kind="MEDIAN", user_value=0.0, negative_allowed=False):
    """Level for pixels far from any good one, from all finite pixels of `image` (NaN if there are none)."""
    finite = image[np.isfinite(image)].astype(np.float64)
    values = {
        "USER": lambda: user_value,
        "MEDIAN": lambda: quantile(finite.tolist(), 0.5),
        "MEAN": lambda: math.fsum(finite.tolist()) / finite.size,
        "MEANCLIP": lambda: clipped_mean(finite),
    }
    value = values[kind]() if finite.size or kind == "USER" else math.nan
    return 0.0 if value < 0 and not negative_allowed else value


def post_process(image, variance, mask, planes, *, interpolate=True, options=None):
    """Image, variance, mask with NO_DATA pixels interpolated (LSST's `interpImage` `options`), variances positive."""
    if not interpolate:
        return image.copy(), variance.copy(), mask.copy()
    options = {**_INTERPOLATION, **(options or {})}
    bad = mask & _bits(planes, ["NO_DATA"]) != 0
    level = fallback_value(
        image, options["fallbackValueType"], options["fallbackUserValue"], options["negativeFallbackAllowed"]
    )

    def fill(plane):
        rows = (plane.T, bad.T) if options["transpose"] else (plane, bad)
        filled = [kriging_interpolate(r, b, level, options["useFallbackValueAtEdge"]) for r, b in zip(*rows)]
        return np.array(filled).T if options["transpose"] else np.array(filled)

    new_image, new_variance = fill(image), fill(variance)
    new_variance[~(new_variance > 0)] = np.inf
    new_mask = mask.copy()
    new_mask[bad] |= _bits(planes, ["INTRP"])
    return new_image, new_variance, new_mask


# ---------------------------------------------------------------------------------------
# Background and variance scale


def clipped_samples(values, sigma_clip=3.0, clip_iterations=3):
    """The finite ones of a flat array that unweighted clipping keeps."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    kept = values
    for iteration in range(clip_iterations):
        if not kept.size:
            break
        if iteration == 0 or values.size == 1:
            quartiles = np.percentile(values, [25, 50, 75])
            centre, half_width = quartiles[1], sigma_clip * IQR_TO_SIGMA * (quartiles[2] - quartiles[0])
        else:
            centre = kept[0] + np.mean(kept - kept[0])
            half_width = sigma_clip * kept.std(ddof=1) if kept.size > 1 else math.nan
        kept = values[np.abs(values - centre) <= half_width]
    return kept


def clipped_mean(values, sigma_clip=3.0, clip_iterations=3):
    """Unweighted clipped mean of the finite ones of a flat array; NaN if there are none."""
    kept = clipped_samples(values, sigma_clip, clip_iterations)
    return float(kept[0] + np.mean(kept - kept[0])) if kept.size else math.nan


_STYLES = ("none", "constant", "linear", "natural", "natural", "akima")  # by number of nodes


def spline(nodes, values, positions, most=5):
    """Interpolate with the richest style that both `most` and the number of valid nodes allow."""
    nodes, values = np.asarray(nodes, float), np.asarray(values, float)
    valid = np.isfinite(values)
    nodes, values = nodes[valid], values[valid]
    style = _STYLES[min(len(nodes), most, 5)]
    if style == "none":
        return np.full(len(positions), np.nan)
    if style == "constant":
        return np.array([values[np.argmin(np.abs(nodes - p))] for p in positions])  # of the nearest node
    if style == "linear":
        slopes = np.diff(values) / np.diff(nodes)
        ends = [(values[0], slopes[0], 0.0), (values[-1], slopes[-1], 0.0)]
        inner = np.interp(positions, nodes, values)
    else:
        natural = style == "natural"
        curve = CubicSpline(nodes, values, bc_type="natural") if natural else Akima1DInterpolator(nodes, values)
        ends = [(curve(x), curve(x, 1), curve(x, 2)) for x in (nodes[0], nodes[-1])]
        inner = curve(np.clip(positions, nodes[0], nodes[-1]))
    out = np.array(inner, float)
    outside = (positions < nodes[0], positions > nodes[-1])
    for side, node, (value, first, second) in zip(outside, (nodes[0], nodes[-1]), ends):
        step = positions[side] - node
        out[side] = value + first * step + 0.5 * second * step**2
    return out


def background(image, mask, ignored_bits, cell=32):
    """Smooth background from clipped means of cells."""
    edges = []
    for size in image.shape:
        n = math.ceil(size / cell)
        edges.append([0] + [min(((i + 1) * size + n // 2) // n, size) for i in range(n)])
    centres = [np.array([a + (b - a) / 2 - 0.5 for a, b in pairwise(e)]) for e in edges]
    means = np.full((len(edges[0]) - 1, len(edges[1]) - 1), np.nan)
    usable = mask & ignored_bits == 0
    for j, i in np.ndindex(*means.shape):
        box = slice(edges[0][j], edges[0][j + 1]), slice(edges[1][i], edges[1][i + 1])
        means[j, i] = clipped_mean(image[box][usable[box]])
    if np.isnan(means).all():
        raise TooManyMaskedPixels("every pixel is masked")
    most = min(means.shape)
    rows, columns = np.arange(image.shape[0]), np.arange(image.shape[1])
    by_row = np.array([spline(centres[0], means[:, i], rows, most) for i in range(means.shape[1])]).T
    return np.array([spline(centres[1], line, columns, most) for line in by_row]).astype(np.float32)


def background_and_scale(image, variance, mask, ignored_bits, *, bad_bits=None, cell=32, limit=10.0):
    """Background, and the factor that makes the scatter of image / sqrt(variance) one."""
    fit = background(image, mask, ignored_bits, cell)
    flat = (image - fit).astype(np.float32)
    bits = ignored_bits if bad_bits is None else bad_bits
    good = (mask & bits == 0) & np.isfinite(flat) & np.isfinite(variance) & (variance > 0)
    if np.count_nonzero(good) < 2:
        return fit, 1.0

    def spread(values):
        low, high = np.percentile(values, [25, 75])
        return (0.74 * float(high - low)) ** 2

    factor = spread(flat[good] / np.sqrt(variance[good]))
    if factor > limit:
        factor = spread(flat[good]) / float(np.median(variance[good]))
        if factor > limit:
            raise ValueError(f"variance scale {factor} is above {limit}")
    return fit, factor


# ---------------------------------------------------------------------------------------
# The whole of CompareWarp

_INTERPOLATION = {
    "useFallbackValueAtEdge": True,
    "fallbackValueType": "MEDIAN",
    "fallbackUserValue": 0.0,
    "negativeFallbackAllowed": False,
    "transpose": False,
}
_SCALE_PLANES = ["DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "NO_DATA", "INTRP"]
_BASE = {
    "badMaskPlanes": ["NO_DATA", "BAD", "SAT", "EDGE"],
    "statistic": "MEANCLIP",
    "doOnlineForMean": False,
    "sigmaClip": 3.0,
    "clipIter": 2,
    "calcErrorFromInputVariance": True,
    "doInterp": True,
    "interpImage": _INTERPOLATION,
    "warpType": "direct",
    "maskPropagationThresholds": {"SAT": 0.1},
    "removeMaskPlanes": ["NOT_DEBLENDED"],
    "subregionSize": [2000, 2000],
}
_DETECT = {
    "minPixels": 1,
    "isotropicGrow": True,
    "combinedGrow": True,
    "excludeMaskPlanes": [],
    "nSigmaToGrow": 2.4,
    "returnOriginalFootprints": False,
    "thresholdValue": 5.0,
    "includeThresholdMultiplier": 1.0,
    "thresholdType": "pixel_stdev",
    "thresholdPolarity": "positive",
}
_COMPARE = {
    **_BASE,
    "statistic": "MEAN",
    "badMaskPlanes": ["NO_DATA", "BAD", "SAT"],
    "removeMaskPlanes": ["NOT_DEBLENDED", "EDGE"],
    "assembleStaticSkyModel": {
        **_BASE,
        "warpType": "psfMatched",
        "badMaskPlanes": ["NO_DATA"],
        "sigmaClip": 2.5,
        "clipIter": 3,
    },
    "detect": {**_DETECT, "thresholdPolarity": "both", "thresholdValue": 7.5, "minPixels": 4, "nSigmaToGrow": 0.4},
    "detectTemplate": {**_DETECT, "thresholdValue": 300.0, "reEstimateBackground": True, "nSigmaForKernel": 7.0},
    "detectTemplateIterMultiplier": 1.25,
    "maxDetectTemplateIter": 10,
    "maxNumEpochs": 2,
    "maxFractionEpochsLow": 0.4,
    "maxFractionEpochsHigh": 0.03,
    "spatialThreshold": 0.5,
    "doScaleWarpVariance": True,
    "scaleWarpVariance": {
        "background": {"binSize": 32, "ignoredPixelMask": _SCALE_PLANES},
        "maskPlanes": _SCALE_PLANES,
        "limit": 10.0,
    },
    "doPreserveContainedBySource": True,
    "doPrefilterArtifacts": True,
    "prefilterArtifactsMaskPlanes": ["NO_DATA", "BAD", "SUSPECT"],
    "prefilterArtifactsRatio": 0.05,
    "doFilterMorphological": False,
}


def _copy(node):
    """Copy of nested dicts in which no two branches are the same object."""
    return {name: _copy(value) for name, value in node.items()} if isinstance(node, dict) else node


def configuration(overrides, *, base_task=False):
    """LSST's defaults with dotted overrides applied, as nested dicts."""
    config = _copy(_BASE if base_task else _COMPARE)
    for name, value in overrides.items():
        *path, last = name.split(".")
        node = config
        for part in path:
            node = node[part]
        if last not in node:
            raise KeyError(name)
        node[last] = value
    return config


def _bits(planes, names):
    """OR of the bits of the known ones of `names`."""
    out = 0
    for name in names:
        out |= 1 << planes[name] if name in planes else 0
    return out


def prepare(image, variance, mask, planes, config):
    """Indices of the epochs that are used, and their weights."""
    kept, weights = [], []
    reject = _bits(planes, config["badMaskPlanes"])
    for epoch in range(len(image)):
        if np.isnan(image[epoch]).all():
            continue
        usable = mask[epoch] & reject == 0
        mean = clipped_mean(variance[epoch][usable], config["sigmaClip"], config["clipIter"])
        if math.isfinite(mean) and mean > 0:
            kept.append(epoch)
            weights.append(1 / mean)
    return kept, weights


def _alternative(mask, artifacts, planes, config):
    """One warp's mask with the artifact search's findings put in."""
    mask = mask.copy()
    if "NO_DATA" in config["badMaskPlanes"]:
        mask[artifacts["no_data"]] &= ~_bits(planes, config["badMaskPlanes"])
    for key, plane in (("clipped", "CLIPPED"), ("no_data", "NO_DATA"), ("edge", "EDGE")):
        mask[artifacts[key]] |= _bits(planes, [plane])
    return mask


def assemble(image, variance, mask, weights, planes, config, artifacts=None):
    """Image, variance, mask, contribution count of the plain coadd, before post-processing."""
    names = list(config["badMaskPlanes"]) + (["CLIPPED"] if artifacts is not None else [])
    reject = _bits(planes, names)
    masks = [m.copy() for m in mask]
    if artifacts is not None:
        masks = [_alternative(m, a, planes, config) for m, a in zip(masks, artifacts)]
    count = sum((m & reject == 0).astype(np.int32) for m in masks)
    masks = np.array([m & ~_bits(planes, config["removeMaskPlanes"]) for m in masks])
    rejected_as = _bits(planes, ["REJECTED"])
    edge, clipped, no_data = _bits(planes, ["EDGE"]), _bits(planes, ["CLIPPED"]), _bits(planes, ["NO_DATA"])
    mask_map = [
        (reject & ~(no_data | edge | clipped), rejected_as),
        (edge, _bits(planes, ["SENSOR_EDGE"])),
        (clipped, clipped),
    ]
    options = {
        "reject_bits": reject,
        "from_input": config["calcErrorFromInputVariance"],
        "propagation": {_bits(planes, [p]): t for p, t in config["maskPropagationThresholds"].items()},
        "mask_map": mask_map,
        "no_data_bit": no_data,
    }
    if config["doOnlineForMean"] and config["statistic"] == "MEAN":
        out_image, out_variance, out_mask, count = online_mean(image, variance, masks, weights, **options)
    else:
        out_image, out_variance, out_mask = stack(
            image,
            variance,
            masks,
            weights,
            config["statistic"],
            sigma_clip=config["sigmaClip"],
            clip_iterations=config["clipIter"],
            clipped_bit=clipped,
            **options,
        )
    inexact = out_mask & (_bits(planes, ["SENSOR_EDGE", "CLIPPED", "REJECTED"])) != 0
    out_mask[inexact] |= _bits(planes, ["INEXACT_PSF"])
    out_mask[out_variance == 0] |= no_data
    return out_image, out_variance, out_mask, count


def _detect_options(config):
    return {
        "threshold": config["thresholdValue"],
        "polarity": config["thresholdPolarity"],
        "threshold_type": config["thresholdType"],
        "min_pixels": config["minPixels"],
        "include_multiplier": config["includeThresholdMultiplier"],
        "n_sigma_to_grow": config["nSigmaToGrow"],
        "isotropic": config["isotropicGrow"],
        "combined": config["combinedGrow"],
        "original": config["returnOriginalFootprints"],
    }


def _warps(inputs, warp_type):
    """Image, variance, mask of the direct or the PSF-matched warps, and which epochs these are."""
    names, n_epochs = ("image", "variance", "mask"), len(inputs["in_image"])
    if warp_type == "direct":
        return *(inputs[f"in_{k}"] for k in names), np.arange(n_epochs)
    epochs = np.flatnonzero(inputs["in_has_matched"])
    return *(inputs[f"in_m_{k}"][epochs] for k in names), epochs


def base_task(inputs, planes, overrides):
    """The base task on the direct warps of one reference file: outputs named as there."""
    config = configuration(overrides, base_task=True)
    names = ("image", "variance", "mask")
    image, variance, mask, epochs = _warps(inputs, config["warpType"])
    kept, weights = prepare(image, variance, mask, planes, config)
    if not kept:
        raise NoWorkFound
    raw = assemble(image[kept], variance[kept], mask[kept], weights, planes, config)
    final = post_process(*raw[:3], planes, interpolate=config["doInterp"], options=config["interpImage"])
    return {
        "used_epochs": epochs[kept],
        "weights": np.array(weights),
        **{f"coadd_raw_{k}": v for k, v in zip(names, raw)},
        **{f"coadd_{k}": v for k, v in zip(names, final)},
        "n_image": raw[3],
    }


def compare_warp(inputs, planes, overrides):
    """
    CompareWarp on the inputs of one reference file.

    Parameters
    ----------
    inputs : mapping
        `in_image`, `in_variance`, `in_mask`, the twins `in_m_*`, `in_m_sigma`, `in_has_matched`.
    planes : dict of str to int
        Mask plane name to bit number.
    overrides : dict
        LSST's dotted configuration names.

    Returns
    -------
    dict
        Named as the `out_*` of the reference files, plus `coadd_image/variance/mask` after
        post-processing, `diff_image/variance` (per used epoch).
    """
    config = configuration(overrides)
    sky, names = config["assembleStaticSkyModel"], ("image", "variance", "mask")
    image, variance, mask, epochs = _warps(inputs, config["warpType"])
    chosen, weights = prepare(image, variance, mask, planes, config)
    if not chosen:
        raise NoWorkFound
    image, variance, mask, used = image[chosen], variance[chosen], mask[chosen], epochs[chosen]
    twins = np.flatnonzero(inputs["in_has_matched"])
    twin_image, twin_variance, twin_mask = (inputs[f"in_m_{k}"] for k in names)
    chosen, template_weights = prepare(twin_image[twins], twin_variance[twins], twin_mask[twins], planes, sky)
    template_epochs = twins[chosen]
    if not len(template_epochs):
        raise NoWorkFound
    template = assemble(
        twin_image[template_epochs],
        twin_variance[template_epochs],
        twin_mask[template_epochs],
        template_weights,
        planes,
        sky,
    )[:3]
    template = post_process(*template, planes, interpolate=sky["doInterp"], options=sky["interpImage"])
    template_sigma = float(np.max(inputs["in_m_sigma"][template_epochs]))

    shape = image.shape[1:]
    protected = []
    if config["doPreserveContainedBySource"]:
        protected = template_footprints(
            template[0],
            template[1],
            template_sigma,
            factor_step=config["detectTemplateIterMultiplier"],
            max_attempts=config["maxDetectTemplateIter"],
            kernel_sigmas=config["detectTemplate"]["nSigmaForKernel"],
            background_wanted=config["detectTemplate"]["reEstimateBackground"],
            **_detect_options(config["detectTemplate"]),
        )

    reject = _bits(planes, config["badMaskPlanes"])
    scaling = config["scaleWarpVariance"]
    epoch_count, n_image_diff = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    found = {k: np.zeros((len(used), *shape), bool) for k in ("candidates", "kept", "clipped", "no_data", "edge")}
    candidates = [[] for _ in used]
    differences = np.full((2, len(used), *shape), np.nan, np.float32)
    scale = np.full(len(used), np.nan)
    for i, epoch in enumerate(used):
        if not inputs["in_has_matched"][epoch]:
            found["no_data"][i] = True
            continue
        w_image, w_variance, w_mask = twin_image[epoch], twin_variance[epoch], twin_mask[epoch]
        if config["doScaleWarpVariance"]:
            try:
                fit, scale[i] = background_and_scale(
                    w_image,
                    w_variance,
                    w_mask,
                    _bits(planes, scaling["background"]["ignoredPixelMask"]),
                    bad_bits=_bits(planes, scaling["maskPlanes"]),
                    cell=scaling["background"]["binSize"],
                    limit=scaling["limit"],
                )
                w_image = (w_image - fit) + fit
                w_variance = (w_variance * np.float32(scale[i])).astype(np.float32)
            except (ValueError, TooManyMaskedPixels):
                pass
        with np.errstate(invalid="ignore"):
            difference, noise = w_image - template[0], w_variance + template[1]
        differences[:, i] = difference, noise
        n_image_diff += np.isfinite(difference) & (w_mask & reject == 0)
        w_mask = w_mask & ~_bits(planes, ["DETECTED", "DETECTED_NEGATIVE"])
        candidates[i], marked = detect(
            difference,
            noise,
            psf_sigma=float(inputs["in_m_sigma"][epoch]),
            excluded=w_mask & _bits(planes, config["detect"]["excludeMaskPlanes"]) != 0,
            **_detect_options(config["detect"]),
        )
        found["candidates"][i] = union(candidates[i], shape)
        w_mask[marked["positive"]] |= _bits(planes, ["DETECTED"])
        w_mask[marked["negative"]] |= _bits(planes, ["DETECTED_NEGATIVE"])
        if config["doPrefilterArtifacts"]:
            bad = _bits(planes, config["prefilterArtifactsMaskPlanes"])
            candidates[i] = [f for f in candidates[i] if mostly_good(f, w_mask, bad, config["prefilterArtifactsRatio"])]
        found["kept"][i] = union(candidates[i], shape)
        epoch_count += found["kept"][i]
        found["no_data"][i] = np.isnan(difference)
        found["edge"][i] = w_mask & _bits(planes, ["EDGE"]) != 0
    rule = {
        "max_epochs": config["maxNumEpochs"],
        "fraction_low": config["maxFractionEpochsLow"],
        "fraction_high": config["maxFractionEpochsHigh"],
        "spatial_threshold": config["spatialThreshold"],
    }
    for i in range(len(used)):
        clipped = (f for f in candidates[i] if is_artifact(f, epoch_count, n_image_diff, protected, **rule))
        found["clipped"][i] = union(clipped, shape)

    artifacts = [{k: found[k][i] for k in ("clipped", "no_data", "edge")} for i in range(len(used))]
    raw = assemble(image, variance, mask, weights, planes, config, artifacts)
    raw[2][found["edge"].any(axis=0)] |= _bits(planes, ["SENSOR_EDGE", "INEXACT_PSF"])
    final = post_process(*raw[:3], planes, interpolate=config["doInterp"], options=config["interpImage"])
    return {
        "used_epochs": np.array(used),
        "weights": np.array(weights),
        "template_epochs": np.array(template_epochs),
        "template_weights": np.array(template_weights),
        **{f"template_{k}": v for k, v in zip(names, template)},
        "template_psf_sigma": template_sigma,
        "template_footprints": sum((n * f for n, f in enumerate(protected, 1)), np.zeros(shape, np.int32)),
        "variance_scale": scale,
        "diff_image": differences[0],
        "diff_variance": differences[1],
        "candidates": found["candidates"],
        "candidates_prefiltered": found["kept"],
        "epoch_count": epoch_count,
        "n_image_diff": n_image_diff,
        "alt_clipped": found["clipped"],
        "alt_no_data": found["no_data"],
        "alt_edge": found["edge"],
        **{f"coadd_raw_{k}": v for k, v in zip(names, raw)},
        "n_image": raw[3],
        **{f"coadd_{k}": v for k, v in zip(names, final)},
    }
