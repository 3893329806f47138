"""
The steps that `gpucoadd bench` times, and the pixels they work on.

A step is a line in `STEPS`: its name, the bytes it cannot do without, and what makes the call to be timed. The bytes
are those of every input read once and every result written once, so a step that goes over its input twice reaches half
of the copy speed at best; more than the copy speed means that caches, or several threads, did the work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import backend, primitives
from .artifacts import find_artifacts
from .backend import Array, is_host
from .bench_scene import Difference, Field, make_difference, make_field
from .cells import CellGrid
from .coaddition import assemble, coadd
from .coadds import Coadd
from .combination import prepare, stack
from .configuration import CoaddConfig
from .decorrelation import decorrelate
from .detection import growth_radius
from .fallback import Search
from .images import MaskedImage, WarpStack
from .interpolation import interpolate
from .memory import LARGEST_GROUP
from .planes import Flags
from .spectra import fft_shape
from .streaks import find_streaks
from .workers import Work, check_memory, cut, in_order

CELLS = CellGrid(cell_size=41, grid_step=40, border_size=8, scale_by_fwhm=False)  # LSST's sizes, as pixels
REJECT = ("NO_DATA", "BAD", "SAT")  # rejected samples of the statistics
_STREAK_PSF = 2.6  # sigma in pixels


class Bench:
    """
    What the steps work on; each part is made when a step first asks for it.

    Parameters
    ----------
    xp : module
        Where the pixels live.
    size, n_epochs, seed : int
        Images are size x size pixels.
    threads : int
        Of the host.
    """

    def __init__(self, xp: Any, *, size: int, n_epochs: int, seed: int, threads: int) -> None:
        self.xp, self.size, self.n_epochs, self.seed, self.threads = xp, size, n_epochs, seed, threads
        self.config = CoaddConfig()

    @property
    def n_pixels(self) -> int:
        """Of one plane."""
        return self.size**2

    @property
    def n_samples(self) -> int:
        """Of one plane, in all epochs."""
        return self.n_epochs * self.n_pixels

    @functools.cached_property
    def field(self) -> Field:
        """The warps, and what is true about them."""
        return make_field(self.n_epochs, self.size, self.seed, xp=self.xp)

    @property
    def warps(self) -> WarpStack:
        """Direct warps with their twins."""
        return self.field.warps

    @property
    def twins(self) -> WarpStack:
        """The PSF-matched warps."""
        assert self.warps.psf_matched is not None
        return self.warps.psf_matched

    @property
    def weights(self) -> np.ndarray:
        """Of the epochs, (epoch,) float64."""
        return np.linspace(0.5, 1.5, self.n_epochs)

    @functools.cached_property
    def template(self) -> Coadd:
        """The static sky."""
        return assemble(self.twins, config=self.config.template, threads=self.threads)

    @functools.cached_property
    def groups(self) -> list[slice]:
        """Epochs that go through a kernel together: as many as flat int32 indices reach, one by one on the host."""
        return cut(self.n_epochs, 1 if is_host(self.xp) else max(1, LARGEST_GROUP // self.n_pixels))

    @functools.cached_property
    def detected(self) -> list[Flags]:
        """Significant pixels of either sign, by group."""
        compared = (self.compare(group) for group in self.groups)
        return [found.positive.union(found.negative) for found in compared]

    @functools.cached_property
    def grown(self) -> list[Flags]:
        """The same after growth."""
        return [self.grow(*group) for group in zip(self.groups, self.detected)]

    @functools.cached_property
    def difference(self) -> Difference:
        """An image difference."""
        return make_difference(self.size, self.seed, xp=self.xp)

    def compare(self, group: slice) -> Any:
        """Significant pixels of some epochs."""
        schema, n = self.twins.schema, group.stop - group.start
        search = Search(
            limits=(self.config.detection.threshold,) * n,
            in_sigmas=True,
            exclude=schema.known_bitmask(self.config.detection.exclude),
            reject=schema.known_bitmask(self.config.stacking.reject),
            edge=schema.bitmask("EDGE"),
        )
        image, variance, mask = (plane[group] for plane in (self.twins.image, self.twins.variance, self.twins.mask))
        template = self.template.image, self.template.variance
        return primitives.compare(image, variance, mask, template, [math.nan] * n, search)

    def grow(self, group: slice, flags: Flags) -> Flags:
        """Detected pixels grown as a search does."""
        radii = [growth_radius(float(sigma), self.config.detection) for sigma in self.twins.psf_sigma[group]]
        return primitives.grow(flags, radii)

    def over_groups(self, function: Callable[..., Any], *lists: Sequence[Any]) -> Callable[[], None]:
        """Call that runs `function` for every group, in threads on the host; results are dropped."""

        def call() -> None:
            items = list(zip(*lists, strict=True))
            for _ in in_order(lambda item: function(*item), items, threads=self.threads if is_host(self.xp) else 1):
                pass

        return call


# What each step calls ------------------------------------------------------------------------------------------------


def _weights(bench: Bench) -> Callable[[], Any]:
    config, work = bench.config.stacking, Work(check_memory(None), bench.threads)
    return lambda: prepare(bench.warps, config, work, step="weighing")


def stacking(bench: Bench, statistic: str, **options: Any) -> Callable[[], MaskedImage]:
    """Call of `gpucoadd.stack` for the direct warps, with these options of its besides."""
    warps = bench.warps
    planes = warps.image, warps.variance, warps.mask, bench.weights
    options |= {"reject": REJECT, "schema": warps.schema, "threads": bench.threads}
    return lambda: stack(*planes, statistic=statistic, **options)


def _compare(bench: Bench) -> Callable[[], Any]:
    bench.template  # noqa: B018  made outside the clock
    return bench.over_groups(bench.compare, bench.groups)


def _grow(bench: Bench) -> Callable[[], Any]:
    return bench.over_groups(bench.grow, bench.groups, bench.detected)


def _label(bench: Bench) -> Callable[[], Any]:
    return bench.over_groups(primitives.label, bench.grown)


def _count(bench: Bench) -> Callable[[], Array]:
    def call() -> Array:
        counts = bench.xp.zeros((bench.size, bench.size), dtype=bench.xp.int32)
        for flags in bench.grown:
            primitives.add_flags(flags, counts)
        return counts

    bench.grown  # noqa: B018  made outside the clock
    return call


def _find_artifacts(bench: Bench) -> Callable[[], Any]:
    template = bench.template
    return lambda: find_artifacts(bench.twins, template, config=bench.config, threads=bench.threads)


def _coadd(bench: Bench) -> Callable[[], Any]:
    return lambda: coadd(bench.warps, config=bench.config, threads=bench.threads)


def _find_streaks(bench: Bench) -> Callable[[], Any]:
    difference = bench.difference.difference
    planes = difference.image, difference.variance, (difference.mask & difference.schema.bitmask("CR")) != 0
    return lambda: find_streaks(*planes, psf_sigma=_STREAK_PSF)


def _interpolate(bench: Bench) -> Callable[[], Any]:
    planes = stacking(bench, "MEAN")()
    bits = {"no_data": planes.schema.bitmask("NO_DATA"), "interpolated": planes.schema.bitmask("INTRP")}
    config = bench.config.stacking.interpolation
    return lambda: interpolate(planes.image, planes.variance, planes.mask, **bits, config=config)


def _fft_pair(precision: str) -> Callable[[Bench], Callable[[], Array]]:
    """Builder of one real transform forward and one back, on the grid that `decorrelate` takes."""

    def build(bench: Bench) -> Callable[[], Array]:
        scene, fft = bench.difference, backend.fft(bench.xp)
        shape = fft_shape(scene.difference.shape, scene.kernel.shape)
        dtype = {"double": bench.xp.float64, "single": bench.xp.float32}[precision]
        padded = bench.xp.zeros(shape, dtype=dtype)
        padded[tuple(map(slice, scene.difference.shape))] = scene.difference.image
        workers = {"workers": bench.threads} if is_host(bench.xp) else {}
        return lambda: fft.irfft2(fft.rfft2(padded, **workers), shape, **workers)

    return build


def _decorrelate(precision: str) -> Callable[[Bench], Callable[[], Any]]:
    def build(bench: Bench) -> Callable[[], Any]:
        arguments = bench.difference.whole
        return lambda: decorrelate(*arguments, precision=precision, threads=bench.threads)

    return build


def _decorrelate_cells(bench: Bench) -> Callable[[], Any]:
    return lambda: decorrelate(*bench.difference, cells=CELLS, threads=bench.threads)


class Floor(NamedTuple):
    """
    Bytes that a step cannot do without: every input read once, every result written once.

    An image, a variance and a mask are 4 bytes a pixel each; a flag is a bit on a device and where it is kept, and a
    byte where it is worked on on the host.
    """

    per_sample: float = 0.0
    per_pixel: float = 0.0
    flags: float = 0.0  # yes-or-no planes of all epochs
    bits: float = 0.0  # the same, packed on the host too

    def of(self, bench: Bench) -> int:
        """Bytes for the pixels of `bench`."""
        per_flag = 1.0 if is_host(bench.xp) else 0.125
        per_sample = self.per_sample + self.flags * per_flag + self.bits * 0.125
        return round(per_sample * bench.n_samples + self.per_pixel * bench.n_pixels)


class Step(NamedTuple):
    """One line of the table; a new one is one line in `STEPS`."""

    name: str
    floor: Floor
    build: Callable[[Bench], Callable[[], Any]]
    of_stack: bool = True  # or of one image


_STACK = Floor(per_sample=12, per_pixel=12)  # image, variance, mask of every epoch; those of the result


def _of_transforms(bytes_per_value: int, extra: int = 0) -> Floor:
    """
    Of a two-dimensional real transform and its inverse.

    Each is a pass along the rows and one along the columns; a pass reads and writes `bytes_per_value` for each pixel,
    since the half spectrum has as many bytes as the image.
    """
    return Floor(per_pixel=4 * 2 * bytes_per_value + extra)


# The floors are bytes for each sample (pixel and epoch) and for each pixel of one plane.
STEPS = (
    Step("weights", Floor(per_sample=8), _weights),  # variance and mask; of the image one good pixel would do
    Step("clipped mean", _STACK, functools.partial(stacking, statistic="MEANCLIP")),
    Step("median", _STACK, functools.partial(stacking, statistic="MEDIAN")),
    Step("weighted mean", _STACK, functools.partial(stacking, statistic="MEAN")),
    # template image and variance, how many contribute; significant above and below, no data, edge
    Step("significance", Floor(per_sample=12, per_pixel=12, flags=4), _compare),
    Step("grow", Floor(flags=2), _grow),
    Step("label", Floor(per_sample=5), _label),  # a byte read and an int32 label written, as a labeller of images does
    Step("epoch count", Floor(per_pixel=4, flags=1), _count),
    # template image and variance; epoch count, number of images, template footprints; clipped, no data, edge
    Step("find_artifacts", Floor(per_sample=12, per_pixel=8 + 12, bits=3), _find_artifacts),
    # both stacks; coadd and template of four planes each, and what find_artifacts gives
    Step("coadd", Floor(per_sample=24, per_pixel=2 * 16 + 12, bits=3), _coadd),
    # difference and variance, and a byte that says which pixels are bad; lines are few
    Step("find_streaks", Floor(per_pixel=9), _find_streaks, of_stack=False),
    Step("interpolation", Floor(per_pixel=24), _interpolate, of_stack=False),
    Step("FFT pair", _of_transforms(8), _fft_pair("double"), of_stack=False),
    # two variances are read and one is written; the transforms read the image and write the corrected one
    Step("decorrelate", _of_transforms(8, extra=12), _decorrelate("double"), of_stack=False),
    Step("decorrelate in cells", _of_transforms(8, extra=12), _decorrelate_cells, of_stack=False),
    Step("FFT pair, single", _of_transforms(4), _fft_pair("single"), of_stack=False),
    Step("decorrelate, single", _of_transforms(4, extra=12), _decorrelate("single"), of_stack=False),
)
