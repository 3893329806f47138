"""Small seeded stacks with planted artifacts and known answers."""

import numpy as np

from gpucoadd import MaskSchema, WarpStack

SCHEMA = MaskSchema.lsst()
PLANES = dict(SCHEMA.with_planes("REJECTED", "CLIPPED", "SENSOR_EDGE", "INEXACT_PSF").planes)


def flat_stack(n_epochs=8, shape=(40, 48), seed=1, noise=1.0, xp=np, twins=True, origin=(0, 0), **common):
    """Noise about zero; the twins are the direct warps themselves. Returns the warps and the image array."""
    rng = np.random.default_rng(seed)
    image = (rng.normal(size=(n_epochs, *shape)) * noise).astype(np.float32)
    return from_image(image, noise, xp=xp, twins=twins, origin=origin, **common)


def from_image(image, noise=1.0, mask=None, xp=np, twins=True, origin=(0, 0), sigma=1.0, **common):
    """Stack with variance noise**2 and the given (or an empty) mask."""
    n_epochs = len(image)
    variance = np.full(image.shape, noise**2, np.float32)
    mask = np.zeros(image.shape, np.int32) if mask is None else mask
    planes = [xp.asarray(plane) for plane in (image, variance, mask)]
    common = {"schema": SCHEMA, "psf_sigma": [sigma] * n_epochs, "origin": origin, **common}
    matched = WarpStack(*planes, **common) if twins else None
    return WarpStack(*planes, psf_matched=matched, **common)


def random_sky(seed, *, n_epochs=None, size=None):
    """
    Inputs named as in the reference files: noise, stars, flashes, holes, dips, flagged blocks, missing data.

    `n_epochs` and `size` (height, width) are random unless given.
    """
    rng = np.random.default_rng(seed)
    n, height, width = int(rng.integers(1, 10)), int(rng.integers(30, 70)), int(rng.integers(30, 70))
    n, (height, width) = n_epochs or n, size or (height, width)
    shape = (n, height, width)
    y, x = np.mgrid[:height, :width]
    sky = sum(
        rng.uniform(20, 400) * np.exp(-0.5 * ((y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2) / 4)
        for _ in range(4)
    )
    variance = rng.uniform(0.5, 2.0, (n, 1, 1)) * rng.uniform(0.9, 1.1, shape)
    image = sky + rng.normal(size=shape) * np.sqrt(variance)
    mask = np.zeros(shape, np.int32)

    def block(epoch, size):
        top, left = int(rng.integers(-2, height)), int(rng.integers(-2, width))
        tall, wide = (int(s) for s in rng.integers(1, size, 2))
        return epoch, slice(max(top, 0), max(top + tall, 0)), slice(max(left, 0), max(left + wide, 0))

    for _ in range(4 * n):
        image[block(rng.integers(n), 7)] += rng.choice([-40, 25, 60, 90])
        mask[block(rng.integers(n), 6)] |= 1 << PLANES[rng.choice(["BAD", "SAT", "CR", "SUSPECT", "EDGE", "DETECTED"])]
    same = block(slice(None), 6)[1:]
    image[(slice(0, max(n // 2, 1)), *same)] += 50
    matched = image + rng.normal(size=shape) * 0.1
    matched_variance, matched_mask = variance * rng.uniform(0.4, 1.5, (n, 1, 1)), mask.copy()
    for _ in range(n):
        hole = block(rng.integers(n), 20)
        image[hole] = variance[hole] = np.nan
        mask[hole] = 1 << PLANES["NO_DATA"]
        epoch, rows, columns = hole
        wider = epoch, slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(columns.start - 2, 0), columns.stop + 2)
        matched[wider] = matched_variance[wider] = np.nan
        matched_mask[wider] = 1 << PLANES["NO_DATA"]
    has_matched = rng.random(n) < 0.85
    has_matched[rng.integers(n)] = True
    return {
        "in_image": image.astype(np.float32),
        "in_variance": variance.astype(np.float32),
        "in_mask": mask,
        "in_m_image": matched.astype(np.float32),
        "in_m_variance": matched_variance.astype(np.float32),
        "in_m_mask": matched_mask,
        "in_sigma": rng.uniform(0.8, 2.5, n),
        "in_m_sigma": rng.uniform(1.0, 2.5, n),
        "in_has_matched": has_matched,
        "in_xy0": np.array([-7, 30]),
    }
