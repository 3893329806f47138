"""Frozen holders of arrays: one masked image, a stack of warps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .backend import Array, array_module, using
from .masks import MaskSchema

if TYPE_CHECKING:
    from .point_spread import Psf

_FLOATS = ("float32", "float64")


def check_dtype(name: str, array: Array, allowed: Sequence[str]) -> None:
    """Raise TypeError unless `array` has one of the dtypes `allowed`, in native byte order."""
    if array.dtype.name not in allowed or not array.dtype.isnative:
        wanted = " or ".join(allowed)
        raise TypeError(f"{name} must be {wanted}, got {array.dtype}; convert it with {name}.astype({allowed[0]!r})")


def check_planes(image: Array, variance: Array, mask: Array, *, axes: str, floats: Sequence[str]) -> None:
    """Raise unless the three planes share module and shape and have the right dtypes."""
    array_module(image=image, variance=variance, mask=mask)
    n_axes = len(axes.split(","))
    if image.ndim != n_axes:
        raise ValueError(f"image has shape {image.shape}; it must be ({axes})")
    for name, plane in (("variance", variance), ("mask", mask)):
        if plane.shape != image.shape:
            raise ValueError(f"{name} has shape {plane.shape} but image has {image.shape}; both are ({axes})")
    if 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; no axis of ({axes}) may be empty")
    check_dtype("image", image, floats)
    check_dtype("variance", variance, floats)
    check_dtype("mask", mask, ("int32",))


def check_pair(name: str, pair: Any) -> tuple[int, int]:
    """`pair` as two ints (y, x), or raise ValueError."""
    try:
        y, x = pair
        checked = int(y), int(x)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a pair of integers (y, x), got {pair!r}") from None
    if checked != (y, x):
        raise ValueError(f"{name} must be a pair of integers (y, x), got {pair!r}")
    return checked


class Frozen:
    """Base of holders whose attributes are set once, by `_set`."""

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; make a new one to change {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; {name!r} cannot be removed")


class MaskedImage(Frozen):
    """
    Image, variance and mask of one exposure or coadd.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32 or float64
        Pixel values and their variances; the variance is in the image unit squared.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    schema : MaskSchema
        Names of the mask's bits.
    origin : (int, int)
        (y, x) of the first pixel in the parent frame (patch, tract); may be negative.
    wcs : object, optional
        Carried, never interpreted, except that `astropy.wcs.WCS` is written to files.
    unit : str, optional
        Unit of `image`, as in the FITS card BUNIT.

    Raises
    ------
    TypeError
        If the arrays are mixed (host and device) or have other dtypes.
    ValueError
        If the shapes differ or are not 2-d.
    """

    image: Array
    variance: Array
    mask: Array
    schema: MaskSchema
    origin: tuple[int, int]
    wcs: Any
    unit: str | None

    def __init__(
        self,
        image: Array,
        variance: Array,
        mask: Array,
        *,
        schema: MaskSchema,
        origin: tuple[int, int] = (0, 0),
        wcs: Any = None,
        unit: str | None = None,
    ) -> None:
        check_planes(image, variance, mask, axes="y, x", floats=_FLOATS)
        check_schema(schema)
        self._set(image=image, variance=variance, mask=mask, schema=schema)
        self._set(origin=check_pair("origin", origin), wcs=wcs, unit=unit)

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) size in pixels."""
        return self.image.shape

    def with_planes(
        self, image: Array, variance: Array, mask: Array, *, schema: MaskSchema | None = None
    ) -> MaskedImage:
        """
        Other values of the same pixels, in the same unit.

        Parameters
        ----------
        image, variance : array, shape (y, x), float32 or float64
        mask : array, shape (y, x), int32
        schema : MaskSchema, optional
            Of `mask`; that of this image when left out.

        Returns
        -------
        MaskedImage
            With origin, WCS and unit of this one, and nothing else that a class may have besides.

        Raises
        ------
        TypeError
            As when one is made.
        ValueError
            Likewise, and if the shape is not that of this image.
        """
        self._check_covers(image)
        place: dict[str, Any] = {"origin": self.origin, "wcs": self.wcs, "unit": self.unit}
        return MaskedImage(image, variance, mask, schema=schema or self.schema, **place)

    def _check_covers(self, image: Array) -> None:
        if image.shape != self.shape:
            raise ValueError(
                f"the new planes have shape {image.shape} but the image {self.shape}; both must cover the same pixels"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.image.shape}, origin={self.origin}, unit={self.unit!r})"


def check_schema(schema: object) -> None:
    """Raise TypeError unless `schema` is a `MaskSchema`."""
    if not isinstance(schema, MaskSchema):
        raise TypeError(f"schema must be a MaskSchema, got {type(schema).__name__}; MaskSchema(planes) makes one")


class PlaneSource(Protocol):
    """
    Where the planes of a stack come from: arrays in memory, or files read piece by piece.

    `shape` is (epoch, y, x). `in_memory` says whether `read` is free.
    """

    shape: tuple[int, int, int]
    in_memory: bool

    def read(self, epoch: int, rows: slice) -> tuple[Array, Array, Array]:
        """Image, variance (float32) and mask (int32) of one epoch, shape (rows, x). Callers do not write to them."""
        ...


class ArraySource:
    """Planes that are in memory already."""

    in_memory = True

    def __init__(self, image: Array, variance: Array, mask: Array) -> None:
        self.image, self.variance, self.mask = image, variance, mask
        self.shape = image.shape

    def read(self, epoch: int, rows: slice) -> tuple[Array, Array, Array]:
        return self.image[epoch, rows], self.variance[epoch, rows], self.mask[epoch, rows]


class WarpStack(Frozen):
    """
    Warps of one patch, one per epoch, on one pixel grid.

    Parameters
    ----------
    image, variance : array, shape (epoch, y, x), float32
        Pixel values in `unit`, and variances in its square. NaN where there is no input.
    mask : array, shape (epoch, y, x), int32
        Bits as named by `schema`.
    schema : MaskSchema
        Names of the mask's bits; must know NO_DATA.
    psf_sigma : array-like, shape (epoch,), float
        Width of each epoch's PSF in pixels: the determinant radius, a Gaussian's sigma.
        NaN where unknown; needed only for the stack that artifacts are searched in. Measured on `psfs`, in the middle
        of the patch, when left out.
    epochs : sequence of hashable, optional
        Ids, such as visit numbers; 0, 1, ... when left out. No id twice.
    psf_matched : WarpStack, optional
        The PSF-matched twins; their ids may be a subset of `epochs`.
    origin : (int, int)
        (y, x) of the first pixel in the patch's frame.
    wcs : object, optional
        Carried, never interpreted.
    unit : str
        Flux unit of `image`.
    psfs : sequence of Psf, array or None, optional
        PSF of each epoch, for that of the coadd: a `Psf`; a stamp (k, k); coefficient images (nc, k, k) of a
        "chebyshev1" `Psf` over the edges of the patch; or None, which is a Gaussian of `psf_sigma`. Kept as `Psf` or
        None, one per epoch; a stack without any has None for them all.
    epoch_values : mapping of str to array-like, shape (epoch, ...), optional
        Numbers or tables that belong to the epochs, such as aperture corrections, to be averaged by `Coadd.epoch_mean`.
        Kept in float64, on the host.

    Raises
    ------
    TypeError
        If arrays are mixed (host and device) or have other dtypes.
    ValueError
        If shapes, lengths, ids, grids or units do not agree; if a PSF or a value is not finite, or a width cannot be
        measured.
    """

    schema: MaskSchema
    psf_sigma: np.ndarray
    psfs: tuple[Psf | None, ...]
    epoch_values: dict[str, np.ndarray]
    epochs: tuple[Hashable, ...]
    psf_matched: WarpStack | None
    origin: tuple[int, int]
    wcs: Any
    unit: str | None
    source: PlaneSource
    inputs: tuple[str, ...]

    def __init__(
        self,
        image: Array,
        variance: Array,
        mask: Array,
        *,
        schema: MaskSchema,
        psf_sigma: Any = None,
        epochs: Sequence[Hashable] | None = None,
        psf_matched: WarpStack | None = None,
        origin: tuple[int, int] = (0, 0),
        wcs: Any = None,
        unit: str | None = "nJy",
        psfs: Sequence[Any] | None = None,
        epoch_values: Mapping[str, Any] | None = None,
    ) -> None:
        check_planes(image, variance, mask, axes="epoch, y, x", floats=("float32",))
        self._fill(
            ArraySource(image, variance, mask),
            schema=schema,
            psf_sigma=psf_sigma,
            epochs=epochs,
            psf_matched=psf_matched,
            origin=origin,
            wcs=wcs,
            unit=unit,
            psfs=psfs,
            epoch_values=epoch_values,
        )

    @classmethod
    def from_source(
        cls,
        source: PlaneSource,
        *,
        schema: MaskSchema,
        psf_sigma: Any = None,
        epochs: Sequence[Hashable] | None = None,
        psf_matched: WarpStack | None = None,
        origin: tuple[int, int] = (0, 0),
        wcs: Any = None,
        unit: str | None = "nJy",
        inputs: Sequence[str] = (),
        psfs: Sequence[Any] | None = None,
        epoch_values: Mapping[str, Any] | None = None,
    ) -> WarpStack:
        """Stack whose pixels are read from `source` when a step asks; `inputs` names where each epoch came from."""
        stack = cls.__new__(cls)
        stack._fill(
            source,
            schema=schema,
            psf_sigma=psf_sigma,
            epochs=epochs,
            psf_matched=psf_matched,
            origin=origin,
            wcs=wcs,
            unit=unit,
            inputs=inputs,
            psfs=psfs,
            epoch_values=epoch_values,
        )
        return stack

    def with_source(
        self, source: PlaneSource, *, psf_matched: WarpStack | None = None, order: Sequence[int] | None = None
    ) -> WarpStack:
        """The same stack with its pixels from elsewhere, and other twins or none; `order` are the epochs it has."""
        which = list(range(self.shape[0]) if order is None else order)
        return WarpStack.from_source(
            source,
            schema=self.schema,
            psf_sigma=self.psf_sigma[which],
            epochs=[self.epochs[index] for index in which],
            psf_matched=psf_matched,
            origin=self.origin,
            wcs=self.wcs,
            unit=self.unit,
            inputs=[self.inputs[index] for index in which] if self.inputs else (),
            psfs=[self.psfs[index] for index in which],
            epoch_values={name: values[which] for name, values in self.epoch_values.items()},
        )

    def _fill(
        self,
        source: PlaneSource,
        *,
        schema: MaskSchema,
        psf_sigma: Any,
        epochs: Sequence[Hashable] | None,
        psf_matched: WarpStack | None,
        origin: tuple[int, int],
        wcs: Any,
        unit: str | None,
        psfs: Sequence[Any] | None,
        epoch_values: Mapping[str, Any] | None,
        inputs: Sequence[str] = (),
    ) -> None:
        check_schema(schema)
        if "NO_DATA" not in schema:
            raise ValueError(f"schema must have the plane NO_DATA; it has {', '.join(schema) or 'none'}")
        n_epochs = source.shape[0]
        ids = tuple(range(n_epochs)) if epochs is None else tuple(epochs)
        if len(ids) != n_epochs:
            raise ValueError(f"{len(ids)} epochs are named but image has {n_epochs}")
        if len(set(ids)) != n_epochs:
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"epoch {twice!r} is there twice; ids must differ")
        self._set(source=source, schema=schema, epochs=ids, psf_matched=psf_matched)
        self._set(origin=check_pair("origin", origin), wcs=wcs, unit=unit, inputs=tuple(inputs))
        self._set_psfs(psfs, psf_sigma)
        self._set(epoch_values=_check_epoch_values(epoch_values or {}, n_epochs))
        if psf_matched is not None:
            self._check_twins(psf_matched)

    def _set_psfs(self, psfs: Sequence[Any] | None, psf_sigma: Any) -> None:
        from .point_spread import as_psfs, measured_sigmas

        n_epochs, n_rows, n_columns = self.shape
        if psfs is None and psf_sigma is None:
            raise ValueError("psf_sigma must be given where psfs is not: widths in pixels, NaN where unknown")
        y0, x0 = self.origin
        box = x0 - 0.5, y0 - 0.5, x0 + n_columns - 0.5, y0 + n_rows - 0.5
        checked = as_psfs([None] * n_epochs if psfs is None else psfs, names=self.epochs, box=box)
        if psf_sigma is None:
            center = y0 + (n_rows - 1) / 2, x0 + (n_columns - 1) / 2
            psf_sigma = measured_sigmas(checked, names=self.epochs, center=center)
        sigma = np.array(psf_sigma, dtype=np.float64)
        if sigma.shape != (n_epochs,):
            raise ValueError(f"psf_sigma has shape {sigma.shape} but there are {n_epochs} epochs; it is (epoch,)")
        sigma.setflags(write=False)
        self._set(psfs=checked, psf_sigma=sigma)

    def _check_twins(self, twins: WarpStack) -> None:
        if not isinstance(twins, WarpStack):
            raise TypeError(f"psf_matched must be a WarpStack, got {type(twins).__name__}")
        if twins.shape[1:] != self.shape[1:] or twins.origin != self.origin:
            raise ValueError(
                f"psf_matched is {twins.shape[1:]} at origin {twins.origin} but the direct warps are "
                f"{self.shape[1:]} at {self.origin}; both must share one pixel grid"
            )
        if twins.unit != self.unit:
            raise ValueError(f"psf_matched is in {twins.unit!r} but the direct warps are in {self.unit!r}")
        if twins.schema != self.schema:
            raise ValueError("psf_matched has other mask planes than the direct warps; both must share one MaskSchema")
        if isinstance(self.source, ArraySource) and isinstance(twins.source, ArraySource):
            array_module(image=self.source.image, psf_matched=twins.source.image)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(epoch, y, x)."""
        return self.source.shape

    @property
    def image(self) -> Array:
        """(epoch, y, x) float32; a file-backed stack reads every file."""
        return self._plane(0)

    @property
    def variance(self) -> Array:
        """(epoch, y, x) float32; a file-backed stack reads every file."""
        return self._plane(1)

    @property
    def mask(self) -> Array:
        """(epoch, y, x) int32; a file-backed stack reads every file."""
        return self._plane(2)

    def _plane(self, which: int) -> Array:
        if isinstance(self.source, ArraySource):
            return (self.source.image, self.source.variance, self.source.mask)[which]
        read: Callable[[int, slice], tuple[Array, Array, Array]] = self.source.read
        planes = [read(epoch, slice(0, self.shape[1]))[which] for epoch in range(self.shape[0])]
        with using(planes[0]):
            return array_module(*planes).stack(planes)

    def to_device(self, device: str = "cuda") -> WarpStack:
        """
        The stack, and its twins, for work on a device.

        Nothing is copied now. Steps bring planes to the device when they need them, by way of pinned memory and beside
        the work on others; `coadd` and `assemble` keep them there as far as its memory allows.

        Parameters
        ----------
        device : str
            "cuda" or "cuda:N"; "auto" takes a device if there is one; "cpu" gives the stack back as it is.

        Returns
        -------
        WarpStack
            The stack itself, if its pixels are on that device already.

        Raises
        ------
        ImportError, RuntimeError, ValueError
            As from `gpucoadd.backend.resolve_device`; also ValueError if the pixels are on another device.
        """
        from . import backend, upload
        from .memory import stack_device

        kind, number = backend.resolve_device(device)
        present, wanted = stack_device(self), None if kind == "cpu" else number
        if present == wanted:
            return self
        if present is not None or wanted is None:
            raise ValueError(
                f"the warps are on cuda:{present} and cannot go to {device}; read them from their files, or from host "
                "memory, once more"
            )
        return self.with_source(
            upload.on_device(self.source, number),
            psf_matched=None if self.psf_matched is None else self.psf_matched.to_device(device),
        )

    def select(self, epochs: Sequence[Hashable], *, missing: str = "error") -> WarpStack:
        """
        The stack of some epochs, in the order given; their twins come with them.

        Nothing is read or copied now. `image` and its like of the result are new arrays at every access.

        Parameters
        ----------
        epochs : sequence of hashable
            Ids, each once.
        missing : str
            What becomes of ids that the stack does not have: "error", or "ignore" as in LSST, where one list of visits
            serves patches that not all of them reach.

        Returns
        -------
        WarpStack

        Raises
        ------
        TypeError
            If `epochs` is one text, or no sequence.
        ValueError
            If an id is there twice, or unknown; if none is left, or only epochs without the twins that others have.
        """
        from . import wrappers

        order = wrappers.positions(epochs, self.epochs, missing=missing)
        twins = self.psf_matched
        if twins is not None:
            present = [self.epochs[position] for position in order if self.epochs[position] in twins.epochs]
            if not present:
                raise ValueError("none of the selected epochs has a PSF-matched twin; select at least one that has")
            twins = twins.select(present)
        return self.with_source(wrappers.SelectedSource(self.source, order), psf_matched=twins, order=order)

    def scaled(self, factors: Mapping[Hashable, float] | Sequence[float]) -> WarpStack:
        """
        The stack with the image of each epoch times a factor, and its variance times the factor's square.

        The twins get the factors of their epochs. Nothing is computed now: planes are scaled whenever a step reads
        them, in float32, to the same bits on the host and on a device.

        Parameters
        ----------
        factors : sequence of float, shape (epoch,), or mapping of epoch id to float
            Positive. A mapping may have more epochs than the stack.

        Returns
        -------
        WarpStack

        Raises
        ------
        ValueError
            If a factor is missing, or not positive and finite; names the epoch.
        """
        from . import wrappers

        checked = wrappers.check_factors(factors, self.epochs)
        twins = self.psf_matched
        if twins is not None:
            if not set(twins.epochs) <= set(self.epochs):  # twins of no epoch have no factor, and no use
                twins = twins.select([epoch for epoch in twins.epochs if epoch in self.epochs])
            twins = twins.scaled(dict(zip(self.epochs, checked, strict=True)))
        return self.with_source(wrappers.ScaledSource(self.source, checked), psf_matched=twins)

    def __repr__(self) -> str:
        twins = "without twins" if self.psf_matched is None else f"{self.psf_matched.shape[0]} twins"
        return f"WarpStack({self.shape[0]} epochs of {self.shape[1]} x {self.shape[2]}, {twins}, unit={self.unit!r})"


def _check_epoch_values(values: Mapping[str, Any], n_epochs: int) -> dict[str, np.ndarray]:
    """Read-only copies in float64; raise unless each is finite and has a row for every epoch."""
    checked = {}
    for name, given in values.items():
        try:
            array = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"epoch_values[{name!r}] must be real numbers in host memory, (epoch, ...): {error}"
            ) from None
        if array.ndim == 0 or len(array) != n_epochs:
            raise ValueError(
                f"epoch_values[{name!r}] has shape {array.shape} but there are {n_epochs} epochs; it is (epoch, ...)"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"epoch_values[{name!r}] holds NaN or infinite values; give finite ones")
        array.setflags(write=False)
        checked[name] = array
    return checked
