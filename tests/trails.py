"""Differences with lines of known place and brightness, for the tests of the streak finder."""

import numpy as np


def noise(shape, seed=1, smooth=0.0):
    """Unit noise, (y, x) float32; convolved with a Gaussian of sigma `smooth` and brought back to unit variance."""
    plane = np.random.default_rng(seed).normal(size=shape)
    if smooth:
        y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
        plane = np.fft.irfft2(np.fft.rfft2(plane) * np.exp(-2 * (np.pi * smooth) ** 2 * (y**2 + x**2)), shape)
        plane /= plane.std()
    return plane.astype(np.float32)


def light(shape, start, stop, *, crest, width):
    """A line between two points (y, x), with a Gaussian cross profile; (y, x) float32."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    (y0, x0), (y1, x1) = start, stop
    length = np.hypot(y1 - y0, x1 - x0)
    along = ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length
    across = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
    return np.where((along >= 0) & (along <= length), crest * np.exp(-0.5 * (across / width) ** 2), 0).astype(
        np.float32
    )


def planes(difference, bad=None, xp=np, variance=1.0):
    """Difference, variance and bad of module `xp`."""
    bad = np.zeros(difference.shape, bool) if bad is None else bad
    return tuple(xp.asarray(p) for p in (difference, np.full(difference.shape, variance, np.float32), bad))
