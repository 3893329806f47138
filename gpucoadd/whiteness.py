"""
What decorrelation did to a simulated difference: its noise, its power spectrum, and what a detection threshold means.

Everything is measured in units of the variance plane: an image over the root of its variance plane has variance 1 where
the plane tells the scatter of single pixels, and power 1 at every frequency where the noise is white, too. Only then
does a matched filter, which adds up neighbours, scatter as the plane makes one expect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .difference_scene import DifferenceScene, convolve
from .images import MaskedImage
from .noise import NoiseStatistics, noise_statistics

THRESHOLD = 5.0  # sigma, of a detection
_CLEAR = 1e-3  # of the peak of a planted change: what is fainter is nothing
_N_BINS = 25  # of the power spectra, up to half a cycle per pixel
_SAMPLES = 5  # positions along each axis where the expected power is computed
FILTER_REACH = 10  # pixels around a source that a matched filter may take it from


@dataclass(frozen=True, eq=False)
class Spectra:
    """
    Power of the noise over its variance plane, averaged over rings of equal frequency.

    Attributes
    ----------
    frequency : numpy.ndarray, shape (n,)
        Mean of each ring, in cycles per pixel.
    before, after : numpy.ndarray, shape (n,)
        Measured; 1 is white and as the plane tells.
    expected : numpy.ndarray, shape (n,)
        That of the difference before, from the kernel and the variances of the two images.
    """

    frequency: np.ndarray
    before: np.ndarray
    after: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True)
class Significance:
    """A planted change in units of what a matched filter takes for its error; pairs are (before, after)."""

    y: float
    x: float
    kind: str
    flux: float
    claimed: tuple[float, float]  # by the variance plane
    honest: tuple[float, float]  # the same over the scatter that the filter has in empty sky


@dataclass(frozen=True, eq=False)
class DifferenceMeasurements:
    """
    Answers of `measure_difference`; pairs are (before, after) decorrelation.

    Attributes
    ----------
    noise : (NoiseStatistics, NoiseStatistics)
        Empty sky in units of the root of the variance plane.
    share : (float, float)
        Variance of empty sky over the sum of the variances of science image and template.
    spectra : Spectra
        Power spectra of the noise.
    filtered : (float, float)
        Standard deviation of the matched filter in empty sky, in units of what the variance plane makes of it.
    n_false : (int, int)
        Detections beyond `THRESHOLD` where nothing changed; stars, too, have to vanish.
    changes : tuple of Significance
        The planted changes, in the order of the scene.
    """

    noise: tuple[NoiseStatistics, NoiseStatistics]
    share: tuple[float, float]
    spectra: Spectra
    filtered: tuple[float, float]
    n_false: tuple[int, int]
    changes: tuple[Significance, ...]


def measure_difference(
    scene: DifferenceScene, decorrelated: MaskedImage, *, psf: np.ndarray | None = None
) -> DifferenceMeasurements:
    """
    Compare a difference and its decorrelated version with what is true of them.

    Parameters
    ----------
    scene : DifferenceScene
        What is true, and the difference before.
    decorrelated : MaskedImage
        The difference after, on the host; its mask is not looked at.
    psf : array, shape (ky, kx), optional
        PSF of `decorrelated`, for its matched filter; that of the science image when left out.

    Returns
    -------
    DifferenceMeasurements
    """
    inner = interior(scene.science.shape)
    sources = scene.sources | ~inner
    pulls = [image.image / np.sqrt(image.variance) for image in (scene.difference, decorrelated)]
    total = np.sqrt(scene.science.variance + scene.template.variance)
    shares = [image.image / total for image in (scene.difference, decorrelated)]

    before = scene.science_psf(*scene.centre)
    filtered = [
        matched_filter(scene.difference, before),
        matched_filter(decorrelated, before if psf is None else psf),
    ]
    empty = inner & ~dilated(scene.sources, FILTER_REACH)
    scatter = [float(np.std(significance[empty])) for significance in filtered]
    n_false = [_n_detections(significance, inner & ~near_changes(scene)) for significance in filtered]
    return DifferenceMeasurements(
        noise=(noise_statistics(pulls[0], sources), noise_statistics(pulls[1], sources)),
        share=(noise_statistics(shares[0], sources).variance, noise_statistics(shares[1], sources).variance),
        spectra=_spectra(scene, pulls[0], pulls[1]),
        filtered=(scatter[0], scatter[1]),
        n_false=(n_false[0], n_false[1]),
        changes=tuple(_significance(change, filtered, scatter) for change in scene.changes),
    )


def difference_rows(measured: DifferenceMeasurements) -> list[tuple[str, str, str]]:
    """
    The table of the demo about the difference.

    Parameters
    ----------
    measured : DifferenceMeasurements
        From `measure_difference`.

    Returns
    -------
    list of (str, str, str)
        What was measured, before and after decorrelation.
    """
    before, after = measured.noise
    spectra = measured.spectra
    low, high = slice(1, 4), slice(-4, None)
    return [
        (
            "correlation of direct neighbours",
            *_pair(f"{noise.lag1:+.4f} +- {noise.lag1_error:.4f}" for noise in measured.noise),
        ),
        ("variance of empty sky over the variance plane", f"{before.variance:.3f}", f"{after.variance:.3f}"),
        ("the same over that of science image and template together", *_pair(f"{v:.3f}" for v in measured.share)),
        *(
            (
                f"noise power at the {name} frequencies, 1 is white",
                f"{spectra.before[part].mean():.3f}",
                f"{spectra.after[part].mean():.3f}",
            )
            for name, part in (("lowest", low), ("highest", high))
        ),
        (
            "scatter of a matched filter over what the variance plane says",
            *_pair(f"{scatter:.3f}" for scatter in measured.filtered),
        ),
        (f"false detections above {THRESHOLD:g} sigma, where nothing changed", *_pair(map(str, measured.n_false))),
    ]


def interior(shape: tuple[int, int]) -> np.ndarray:
    """(y, x) bool: pixels that the zeros beyond the image's edge do not reach through kernel and correction."""
    inside = np.zeros(shape, dtype=bool)
    border = min(24, min(shape) // 6)
    inside[border:-border, border:-border] = True
    return inside


def matched_filter(image: MaskedImage, psf: np.ndarray) -> np.ndarray:
    """
    Significance of a point source at each pixel, were the noise as white as a variance plane has to take it.

    Parameters
    ----------
    image : MaskedImage
        Without NaN.
    psf : array, shape (ky, kx), both odd
        Its PSF.

    Returns
    -------
    array, shape (y, x), float64
        ``sum(psf * image) / sqrt(sum(psf**2 * variance))``.
    """
    turned = psf[::-1, ::-1]
    return convolve(image.image, turned) / np.sqrt(convolve(image.variance, turned**2))


def _pair(texts: Iterable[str]) -> tuple[str, str]:
    before, after = texts
    return before, after


def dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    """(y, x) bool `mask`, and what lies in squares of `reach` pixels to each side of it."""
    return ndimage.maximum_filter(mask.view(np.uint8), 2 * reach + 1) != 0


def _significance(change: np.void, filtered: list[np.ndarray], scatter: list[float]) -> Significance:
    """What two matched filters, with their scatter in empty sky, make of a planted change."""
    y, x = float(change["y"]), float(change["x"])
    before, after = (float(significance[round(y), round(x)]) for significance in filtered)
    honest = (before / scatter[0], after / scatter[1])
    return Significance(y, x, str(change["kind"]), float(change["flux"]), claimed=(before, after), honest=honest)


def near_changes(scene: DifferenceScene, *, reach: int = FILTER_REACH) -> np.ndarray:
    """(y, x) bool: planted changes and `reach` pixels around, by default where a matched filter may find them."""
    size = np.abs(scene.expected)
    return dilated(size > _CLEAR * size.max(), reach)


def _n_detections(significance: np.ndarray, where: np.ndarray) -> int:
    """Local extremes beyond the threshold, of either sign."""
    size = np.abs(significance)
    return int(np.count_nonzero(where & (size > THRESHOLD) & (size == ndimage.maximum_filter(size, 5))))


def _spectra(scene: DifferenceScene, before: np.ndarray, after: np.ndarray) -> Spectra:
    """Power of the two images of pulls, planted changes left out, and the power that the kernel makes one expect."""
    shape = scene.science.shape
    window = np.outer(*(np.hanning(n) for n in shape))
    window[near_changes(scene, reach=3)] = 0
    frequency, measured = None, []
    for pull in (before, after):
        power = np.abs(np.fft.rfft2(window * pull)) ** 2 / np.sum(window**2)
        frequency, mean = _rings(power, shape)
        measured.append(mean)
    assert frequency is not None
    _, expected = _rings(_expected_power(scene), shape)
    return Spectra(frequency, measured[0], measured[1], expected)


def _expected_power(scene: DifferenceScene) -> np.ndarray:
    """Power over the variance plane in empty sky, mean over the field, rfft2 half plane."""
    shape = scene.science.shape
    variance = scene.settings["noise"] ** 2
    template_variance = variance * scene.settings["variance_ratio"]
    places = [(np.arange(_SAMPLES) + 0.5) * n / _SAMPLES - 0.5 for n in shape]
    power = np.zeros((shape[0], shape[1] // 2 + 1))
    for kernel in scene.kernel.at(*(axis.ravel() for axis in np.meshgrid(*places, indexing="ij"))):
        spectrum = variance + template_variance * np.abs(np.fft.rfft2(kernel, shape)) ** 2
        power += spectrum / (variance + template_variance * np.sum(kernel**2))
    return power / _SAMPLES**2


def _rings(power: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean frequency and mean power in rings of equal width."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, np.newaxis], np.fft.rfftfreq(shape[1]))
    ring = np.floor(frequency / 0.5 * _N_BINS).astype(int)
    used = (ring < _N_BINS) & (frequency > 0)
    count, frequencies, powers = (
        np.bincount(ring[used], weights=values, minlength=_N_BINS) for values in (None, frequency[used], power[used])
    )
    return frequencies / count, powers / count
