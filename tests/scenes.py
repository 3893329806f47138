"""Small seeded stacks with planted artifacts and known answers."""

import numpy as np

from gpucoadd import MaskSchema, WarpStack

SCHEMA = MaskSchema.lsst()


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
