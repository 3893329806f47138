"""A finished coadd: its planes, what led to them, and its PSF."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Hashable
from typing import Any

import numpy as np

from .artifacts import Artifacts
from .backend import Array
from .contributors import Contributors
from .images import MaskedImage
from .streaks import Streaks

logger = logging.getLogger(__name__)


class Coadd(MaskedImage):
    """
    A coadd and what led to it.

    Attributes
    ----------
    image, variance : array, shape (y, x), float32
        In `unit` and its square. Variance is +inf where it is not known.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    n_image : array, shape (y, x), int32
        Epochs that contributed.
    epochs : tuple
        Ids of the epochs kept.
    weights : numpy.ndarray, shape (kept,), float64
        Their weights, in one over the unit squared.
    psf_sigma : float
        Widest PSF among the epochs kept, pixels.
    template : MaskedImage or None
        Static-sky model, as subtracted. None, like all that follows, from `assemble`.
    artifacts : Artifacts or None
        The search's result; the following attributes are its.
    template_footprints, epoch_count, n_image_matched : array, shape (y, x), int32
    clipped, no_data, edge : array, shape (kept, y, x), bool
        Unpacked from bits at every access.
    variance_scale : numpy.ndarray, shape (kept,), float64
        NaN where not applied.
    streak : array, shape (kept, y, x), bool
        Pixels clipped for a trail; an AttributeError where none was searched for.
    lines : tuple of Streaks or None, (kept,)
        The lines of each epoch, whether or not they are trails; None where none was searched for.
    contributors : Contributors or None
        The epochs kept, where they contributed and what is known of them. None for the template of a coadd.
    contributed : array, shape (kept, y, x), bool
        Samples that the final stack used: finite, and without a rejecting plane once the artifacts are set. Unpacked at
        every access. A clipped statistic may have dropped some of them yet.
    inputs : astropy.table.Table
        One row per epoch kept.
    input_map : healsparse.HealSparseMap or None
        Which detectors went into each part of the sky, if they were given; `gpucoadd.input_map` says more.
    provenance : dict
        Version, configuration and inputs, as written to files.

    Notes
    -----
    *INEXACT_PSF* is set, as in LSST, where CLIPPED, REJECTED or SENSOR_EDGE is: so wherever an epoch that has data did
    not contribute, be it for an artifact, an edge or another rejecting plane. It is not set for an epoch that has no
    data there (NO_DATA in the warp or its twin, or a sample that is not finite), although the PSF changes where the
    data of an epoch end; `contributed` says that too. It may be set where all epochs contributed: at the EDGE of a
    twin, and where a clipped statistic dropped a sample.
    """

    n_image: Array
    epochs: tuple[Hashable, ...]
    weights: np.ndarray
    psf_sigma: float
    template: MaskedImage | None
    artifacts: Artifacts | None
    contributors: Contributors | None
    statistic: str
    provenance: dict[str, Any]
    input_map: Any

    def __init__(
        self,
        image: Array,
        variance: Array,
        mask: Array,
        *,
        n_image: Array,
        epochs: tuple[Hashable, ...],
        weights: np.ndarray,
        psf_sigma: float,
        provenance: dict[str, Any],
        template: MaskedImage | None = None,
        artifacts: Artifacts | None = None,
        input_map: Any = None,
        contributors: Contributors | None = None,
        statistic: str = "MEAN",
        **common: Any,
    ) -> None:
        super().__init__(image, variance, mask, **common)
        self._set(n_image=n_image, epochs=epochs, weights=weights, psf_sigma=psf_sigma)
        self._set(template=template, artifacts=artifacts, provenance=provenance, input_map=input_map)
        self._set(contributors=contributors, statistic=statistic)

    def _found(self) -> Artifacts:
        if self.artifacts is None:
            raise AttributeError("a coadd made by assemble() has no artifact search; use coadd()")
        return self.artifacts

    def _kept(self) -> Contributors:
        if self.contributors is None:
            raise AttributeError(
                "the template of a coadd does not keep which epochs contributed; use the coadd, or assemble()"
            )
        return self.contributors

    @property
    def contributed(self) -> Array:
        """(kept, y, x) bool: samples that the final stack used."""
        return self._kept().contributed.all_planes()

    def psf(self, y: Any, x: Any, *, exact: bool = False) -> Array:
        """
        PSF of the coadd at one position or several.

        The mean of the epochs' PSFs, each with sum 1, with the weights of the stack over the epochs that contributed to
        the nearest pixel. Where the epochs change within the stamp, as at a clipped trail, a star looks a little
        different: `exact` takes for every pixel of the stamp the epochs that contributed to that one.

        Parameters
        ----------
        y, x : float, or sequences of n floats
            Pixel coordinates in the frame of the patch, as `origin`; pixel centres are at integers.
        exact : bool
            The image that a star of flux 1, centred in the nearest pixel, has in the coadd. Its sum need not be 1.

        Returns
        -------
        array, shape (k, k) or (n, k, k), float64
            k of the largest stamp of any epoch; where the coadd's arrays are. With `exact`, NaN where no epoch
            contributed, and outside of the coadd.

        Raises
        ------
        ValueError
            If a position is outside, or no epoch contributed to its pixel; if the PSF of an epoch is not known; if
            `exact` is asked of another statistic than MEAN, of which no image of a star can be foretold.

        Warns
        -----
        UserWarning
            For other statistics than MEAN, to whose PSF the result is an approximation.

        Notes
        -----
        Epochs without a PSF of their own have a Gaussian of their `psf_sigma`. LSST's CoaddPsf asks whether a detector
        covers the position, and does not see what was clipped or masked. Waits for the device once.
        """
        if self.statistic != "MEAN":
            if exact:
                raise ValueError(
                    f"a coadd with the statistic {self.statistic} has no exact PSF, for it is no linear function of "
                    "its epochs; use exact=False, or the statistic MEAN"
                )
            warnings.warn(
                f"the statistic of this coadd is {self.statistic}: the weighted mean of the PSFs is only near its own",
                stacklevel=2,
            )
        return self._kept().psf(y, x, exact=exact)

    def epoch_mean(self, name: str, y: Any, x: Any) -> Any:
        """
        Mean of an epoch's numbers over the epochs that contributed, with the weights of the stack.

        Parameters
        ----------
        name : str
            Of the `epoch_values` of the warps that were stacked.
        y, x
            As in `psf`.

        Returns
        -------
        float, or numpy.ndarray of shape (...), (n,) or (n, ...)
            Of the shape that the epochs' values have; one such for every position.

        Raises
        ------
        KeyError
            If there are no values of that name.
        ValueError
            If a position is outside, or no epoch contributed to its pixel.
        """
        return self._kept().mean(name, y, x)

    @property
    def inputs(self) -> Any:
        """
        astropy Table of the epochs kept, made at every access.

        Columns: epoch (its id); weight (in one over `unit` squared); psf_sigma (pixels); fraction_clipped, the share of
        clipped pixels among those where the PSF-matched warp of the epoch has data, NaN where none has or no artifacts
        were searched for; input (file, or nothing).
        """
        bits: Any = {} if self.artifacts is None else self.artifacts.bits
        return self._kept().table(clipped=bits.get("clipped"), no_data=bits.get("no_data"), unit=self.unit)

    @property
    def clipped(self) -> Array:
        """(kept, y, x) bool: artifact pixels of every epoch."""
        return self._found().clipped

    @property
    def no_data(self) -> Array:
        """(kept, y, x) bool: no data in the PSF-matched warp."""
        return self._found().no_data

    @property
    def edge(self) -> Array:
        """(kept, y, x) bool: EDGE in the PSF-matched warp."""
        return self._found().edge

    @property
    def epoch_count(self) -> Array:
        """(y, x) int32: in how many epochs a pixel lies in a candidate."""
        return self._found().epoch_count

    @property
    def n_image_matched(self) -> Array:
        """(y, x) int32: PSF-matched epochs with good data."""
        return self._found().n_image_matched

    @property
    def template_footprints(self) -> Array:
        """(y, x) int32: 0 or the number of the bright template source."""
        return self._found().template_footprints

    @property
    def variance_scale(self) -> np.ndarray:
        """(kept,) float64: factor applied to each PSF-matched variance, NaN where none was."""
        return self._found().variance_scale

    @property
    def streak(self) -> Array:
        """(kept, y, x) bool: pixels clipped for a trail."""
        return self._found().streak

    @property
    def lines(self) -> tuple[Streaks | None, ...]:
        """(kept,): the lines of every epoch, None for those without a PSF-matched warp."""
        return self._found().lines

    def write(self, path: str | os.PathLike[str], *, compression: str = "none") -> None:
        """
        Write image, mask, variance and contribution image as FITS, in the layout of LSST's afw.

        Then follow, if the warps had PSFs, PSF: the stamp in the middle of the coadd, as `psf` gives it, or at the
        nearest pixel to which an epoch contributed; cards PSFY and PSFX have its position. And INPUTS: the table
        `inputs`.

        Parameters
        ----------
        path : path
            Replaced at once when the file is complete; nothing half-written is left.
        compression : str
            "none", "lossless" or "lossy".

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from .fits import write_planes

        write_planes(
            path,
            image=self.image,
            variance=self.variance,
            mask=self.mask,
            schema=self.schema,
            origin=self.origin,
            wcs=self.wcs,
            unit=self.unit,
            extra={"NIMAGE": self.n_image},
            psf=None if self.contributors is None else self.central_psf(),
            tables={} if self.contributors is None else {"INPUTS": self.inputs},
            provenance=self.provenance,
            compression=compression,
        )

    def central_psf(self) -> tuple[Array, tuple[int, int]] | None:
        """PSF in the middle, or as near to it as there is one, and where (y, x) that is; None if the warps had none."""
        contributors = self._kept()
        if not contributors.has_psfs:
            return None
        (y0, x0), (n_rows, n_columns) = self.origin, self.shape
        where = contributors.nearest(y0 + (n_rows - 1) // 2, x0 + (n_columns - 1) // 2)
        try:
            return None if where is None else (contributors.psf(*where, exact=False), where)
        except ValueError as error:
            logger.warning("no PSF is written: %s", error)
            return None
