"""
Satellite trails, and other long straight lines, far below the threshold of a single pixel.

Pixels are added up along all lines of a difference, of all lengths at once (`line_sums`); what stands out is refined at
full resolution (`line_fits`), measured and masked (`line_masks`), and, where there are other epochs, kept apart from
lines that come back (`line_votes`). A trail of 0.2 sigma per pixel across 512 pixels is found.

Why not a Hough transform of detected pixels: it needs pixels that are detected, where a sum along the line does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, array_module, using
from .images import Frozen, check_dtype
from .line_candidates import candidates
from .line_doubts import starts_at_flags
from .line_fits import refine_line
from .line_images import LineImages, NoiseFactor, noise_factor, streak_images
from .line_masks import line_profile, mask_pixels, paint_lines
from .line_sums import line_sums
from .line_votes import Votes, is_persistent, vote
from .lines import Line
from .streak_config import StreakConfig
from .streak_search import Found, search

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "StreakConfig",
    "Streaks",
    "candidates",
    "find_streaks",
    "line_profile",
    "line_sums",
    "line_votes",
    "noise_factor",
    "refine_line",
    "streak_images",
    "streak_mask",
    "with_votes",
]


class Streaks(Frozen):
    """
    Lines that were found in one difference, the most significant first.

    Attributes
    ----------
    ends : numpy.ndarray, shape (n, 2, 2), float64
        (y, x) of both ends of each line in array pixels: 0 is the centre of the first one, -0.5 its edge.
    orientation : numpy.ndarray, shape (n,), str
        "h": the line is ``y = intercept + slope * (x - centre)``; "v": ``x = intercept + slope * (y - centre)``; the
        centre is that of the image, ``(size - 1) / 2``.
    slope, intercept : numpy.ndarray, shape (n,), float64
        ``abs(slope) <= 1``, but for what refinement may add to it; intercept in pixels.
    length, width, half_width : numpy.ndarray, shape (n,), float64
        In pixels: from end to end; Gaussian sigma across; distance from the line up to which it is masked.
    amplitude : numpy.ndarray, shape (n,), float64
        Brightness along the middle, negative for dark lines, in units of `noise`.
    z : numpy.ndarray, shape (n,), float64
        Significance in sigmas.
    sign : numpy.ndarray, shape (n,), int64
        1 or -1.
    persistent : numpy.ndarray, shape (n,), bool
        Seen in other epochs, too: no trail. False without a vote.
    suspect : numpy.ndarray, shape (n,), bool
        Starts at flagged pixels, and nobody voted: a bleed row or a diffraction spike, perhaps. In a coadd: too few
        epochs have data there to tell what comes back.
    profile : numpy.ndarray, shape (n, 2 h + 1), float64
        Brightness at distances -h, ..., h from the line in units of `noise`; NaN beyond what was measured.
    block_amplitude : numpy.ndarray, shape (n, blocks), float64
        Brightness along the middle, in pieces of 16 pixels of the longer axis; NaN beyond the end.
    mask_ends : numpy.ndarray, shape (n, 2, 2), float64
        (y, x) of both ends of the mask of each line, which goes on a little further than the line.
    mask : array, shape (y, x), bool
        Pixels of lines that are not persistent, where the difference lives; drawn at every access.
    shape : (int, int)
    noise : float
        Scatter of a typical pixel in units of the difference; NaN where no pixel is good.
    voters : int
        How many other epochs were asked.
    """

    ends: np.ndarray
    orientation: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    length: np.ndarray
    width: np.ndarray
    half_width: np.ndarray
    amplitude: np.ndarray
    z: np.ndarray
    sign: np.ndarray
    persistent: np.ndarray
    suspect: np.ndarray
    profile: np.ndarray
    block_amplitude: np.ndarray
    mask_ends: np.ndarray
    shape: tuple[int, int]
    noise: float
    voters: int
    _place: Array  # empty, where the difference lives

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                values[name] = value = value.copy()
                value.setflags(write=False)
        self._set(**values)

    @property
    def mask(self) -> Array:
        """(y, x) bool: pixels of lines that are not persistent."""
        with using(self._place):
            return streak_mask(self, self.shape, xp=array_module(self._place))

    def __len__(self) -> int:
        return len(self.z)

    def __repr__(self) -> str:
        return f"Streaks({len(self)} lines in {self.shape[0]} x {self.shape[1]}, {self.persistent.sum()} persistent)"

    def pixels(self, number: int, *, half_width: float, across: bool = False) -> np.ndarray:
        """
        Flat indices of the pixels within `half_width` of one line.

        Parameters
        ----------
        number : int
            Which line.
        half_width : float
            Pixels.
        across : bool
            Go on to the borders of the image.

        Returns
        -------
        numpy.ndarray, shape (n,), int64
        """
        line = _lines(self)[number]
        if across:
            line = line.between(-0.5, (self.shape[0] if line.vertical else self.shape[1]) - 0.5)
        return mask_pixels(line, half_width, self.shape)

    @property
    def is_trail(self) -> np.ndarray:
        """(n,) bool: bright lines that are neither persistent nor suspect."""
        return (self.sign > 0) & ~self.persistent & ~self.suspect

    def marked(self, *, suspect: np.ndarray) -> Streaks:
        """The same lines with another `suspect`, (n,) bool."""
        return Streaks(**{**vars(self), "suspect": suspect})

    def select(self, keep: Any) -> Streaks:
        """Those whose entry in `keep`, (n,) bool, is set."""
        keep = np.asarray(keep, dtype=bool)
        return Streaks(**{**vars(self), **{name: getattr(self, name)[keep] for name in _PER_LINE}})

    def to_table(self) -> Table:
        """One row per line, with units: an astropy Table."""
        from astropy import units as u
        from astropy.table import Table

        table = Table()
        for number, end in enumerate(("start", "stop")):
            for axis, name in enumerate("yx"):
                table[f"{end}_{name}"] = self.ends[:, number, axis] * u.pix
        for name, unit in _COLUMNS.items():
            values = getattr(self, name)
            table[name] = values if unit is None else values * u.Unit(unit)
        table.meta["noise"] = self.noise
        return table


_PER_LINE = (
    "ends",
    "orientation",
    "slope",
    "intercept",
    "length",
    "width",
    "half_width",
    "amplitude",
    "z",
    "sign",
    "persistent",
    "suspect",
    "profile",
    "block_amplitude",
    "mask_ends",
)
_COLUMNS = {
    "orientation": None,
    "slope": "",
    "intercept": "pix",
    "length": "pix",
    "width": "pix",
    "half_width": "pix",
    "amplitude": "",
    "z": "",
    "sign": None,
    "persistent": None,
    "suspect": None,
}


def find_streaks(
    difference: Array,
    variance: Array,
    bad: Array,
    *,
    psf_sigma: float,
    config: StreakConfig | None = None,
    others: Sequence[tuple[Array, Array, Array]] | None = None,
    flagged: Array | None = None,
) -> Streaks:
    """
    Straight lines in a difference, bright and dark.

    Parameters
    ----------
    difference, variance : array, shape (y, x), float32
        Warp less template, and its variance. Pixels that are not finite, or whose variance is not positive, do not
        count.
    bad : array, shape (y, x), bool
        Nor do these.
    psf_sigma : float
        Width of the PSF in pixels, a Gaussian's sigma.
    config : StreakConfig, optional
    others : sequence of (difference, variance, bad), optional
        Those of other epochs on the same grid: a line that is seen in some of them is persistent.
    flagged : array, shape (y, x), bool, optional
        Saturated, bad or suspect pixels, whether or not they are good enough to be searched. A line along a row or
        column that has many of them needs more significance, and without `others` one that starts at them is suspect.

    Returns
    -------
    Streaks
        Empty where no pixel is good or the image is too small for any line.

    Raises
    ------
    TypeError
        If arrays are mixed (host and device) or have other dtypes.
    ValueError
        If shapes differ, `psf_sigma` is not finite and positive, or one of `others` has not three parts.

    Notes
    -----
    The images are searched where they live. A device is waited for once for each search of the whole image, and some
    five times for each of the lines looked at, at most 12 in a search: their pixels come to the host, where they are
    refined. At most 6 searches; the second is made only if the first found something.

    Memory beside the arguments: 17 bytes per pixel of a large image in bins of 4 pixels (`StreakConfig.bin`), 26 in
    bins of 2, 36 of a 512 x 512 one; more where one side is much longer than the other.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:300, :300]
    >>> trail = 0.6 * np.exp(-0.5 * ((y - 100 - 0.3 * x) / 2) ** 2)
    >>> noise = np.random.default_rng(1).normal(size=(300, 300))
    >>> ones, nothing = np.ones((300, 300), np.float32), np.zeros((300, 300), bool)
    >>> streaks = find_streaks((noise + trail).astype(np.float32), ones, nothing, psf_sigma=2.0)
    >>> len(streaks), round(float(streaks.slope[0]), 2), bool(streaks.mask[100, 0])
    (1, 0.3, True)
    """
    config = StreakConfig() if config is None else config
    planes = {"difference": difference, "variance": variance, "bad": bad}
    _check(planes if flagged is None else {**planes, "flagged": flagged})
    if not (math.isfinite(psf_sigma) and psf_sigma > 0):
        raise ValueError(f"psf_sigma must be finite and positive, got {psf_sigma!r}; give the PSF width in pixels")
    for number, other in enumerate(others or ()):
        if len(other) != 3:
            raise ValueError(f"others[{number}] has {len(other)} parts; it must be (difference, variance, bad)")
        names = (f"{name} of others[{number}]" for name in planes)
        _check({"difference": difference, **dict(zip(names, other))})
    with using(difference):
        streaks = _found(difference, variance, bad, psf_sigma, config, flagged)
        if len(streaks) == 0 or not (others or flagged is not None):
            return streaks
        if not others:
            return streaks.marked(suspect=starts_at_flags(_lines(streaks), flagged))
        images = (streak_images(*other, clip=config.clip, mesh=config.mesh) for other in others)
        return with_votes(streaks, [line_votes(streaks, each) for each in images], config=config)


def _found(
    difference: Array, variance: Array, bad: Array, psf_sigma: float, config: StreakConfig, flagged: Array | None
) -> Streaks:
    """The lines in one difference, before anybody voted."""
    xp = array_module(difference)
    planes = xp.ascontiguousarray(difference), xp.ascontiguousarray(variance)
    images = streak_images(*planes, bad, clip=config.clip, mesh=config.mesh)
    found: list[Found] = []
    if not math.isnan(images.unit):
        found = search(images, planes, psf_sigma=psf_sigma, config=config, flagged=flagged)
    found.sort(key=lambda each: -each.fit.z)
    return _as_streaks(found, difference.shape, images.unit, xp.empty(0))


def line_votes(streaks: Streaks, images: LineImages, factor: NoiseFactor | None = None) -> Votes:
    """
    What another epoch says about lines.

    Parameters
    ----------
    streaks : Streaks
    images : LineImages
        Of the other epoch, on the same grid, from `streak_images`.
    factor : NoiseFactor, optional
        Of these images, from `noise_factor`; computed when left out.

    Returns
    -------
    Votes
    """
    with using(images.signal):
        factor = noise_factor(images) if factor is None else factor
        lines = zip(_lines(streaks), streaks.sign.tolist(), streaks.width.tolist())
        return vote(list(lines), images, factor)


def with_votes(streaks: Streaks, votes: Sequence[Votes], *, config: StreakConfig | None = None) -> Streaks:
    """
    The lines with `persistent` as other epochs have it, and the mask of those that are not.

    Parameters
    ----------
    streaks : Streaks
    votes : sequence of Votes
        One per other epoch, from `line_votes`.
    config : StreakConfig, optional
        For `persistence`.
    """
    config = StreakConfig() if config is None else config
    persistent = is_persistent(streaks.z, streaks.slope, list(votes), persistence=config.persistence)
    return Streaks(**{**vars(streaks), "persistent": persistent, "voters": len(votes)})


def streak_mask(streaks: Streaks, shape: tuple[int, int], *, which: Any = None, xp: ModuleType = np) -> Array:
    """
    Pixels of some lines.

    Parameters
    ----------
    streaks : Streaks
    shape : (int, int)
        (y, x) of the mask, that of the images the lines were found in.
    which : sequence, optional
        Bool for each line, or the numbers of some; left out: those that are not persistent.
    xp : module
        NumPy or CuPy, whose array is made.

    Returns
    -------
    array, shape (y, x), bool

    Raises
    ------
    ValueError
        If `shape` is another one.
    """
    if tuple(shape) != tuple(streaks.shape):
        raise ValueError(f"shape is {tuple(shape)} but the lines were found in {streaks.shape}; give that one")
    chosen = ~streaks.persistent if which is None else np.asarray(which)
    numbers = np.arange(len(streaks))[chosen].tolist() if chosen.size else []
    lines = _lines(streaks, "mask_ends")
    return paint_lines([(lines[n], float(streaks.half_width[n])) for n in numbers], streaks.shape, xp)


def _check(planes: dict[str, Array]) -> None:
    """Raise unless the named planes, the difference first, belong together; those named bad... and flagged are bool."""
    array_module(**planes)
    shape = planes["difference"].shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"difference has shape {shape}; it must be (y, x), neither of them 0")
    for name, plane in planes.items():
        if plane.shape != shape:
            raise ValueError(f"{name} has shape {plane.shape} but the difference has {shape}; both are (y, x)")
        check_dtype(name, plane, ("bool",) if name.startswith(("bad", "flagged")) else ("float32",))


def _as_streaks(found: list[Found], shape: tuple[int, int], noise: float, place: Array) -> Streaks:
    lines = [each.fit.line for each in found]
    centres = [((shape[0] if line.vertical else shape[1]) - 1) / 2 for line in lines]
    n = len(found)

    def column(values: Any) -> np.ndarray:
        return np.array(list(values), dtype=np.float64)

    return Streaks(
        ends=np.array([line.ends() for line in lines]).reshape(n, 2, 2),
        orientation=np.array(["v" if line.vertical else "h" for line in lines], dtype="<U1"),
        slope=column(line.slope for line in lines),
        intercept=column(float(line.minor(c)) for line, c in zip(lines, centres)),
        length=column(line.length for line in lines),
        width=column(each.profile.width for each in found),
        half_width=column(each.profile.half_width for each in found),
        amplitude=column(each.fit.sign * each.profile.crest for each in found),
        z=column(each.fit.z for each in found),
        sign=np.array([each.fit.sign for each in found], dtype=np.int64),
        persistent=np.zeros(n, dtype=bool),
        suspect=np.zeros(n, dtype=bool),
        profile=_ragged([each.profile.values for each in found], centred=True),
        block_amplitude=_ragged([each.profile.blocks for each in found], centred=False),
        mask_ends=np.array([each.masked.ends() for each in found]).reshape(n, 2, 2),
        shape=tuple(shape),
        noise=noise,
        voters=0,
        _place=place,
    )


def _ragged(rows: list[np.ndarray], *, centred: bool) -> np.ndarray:
    """Rows in one array, NaN where they are shorter than the longest: beyond their end, or on both sides."""
    longest = max(map(len, rows), default=0)
    out = np.full((len(rows), longest), np.nan)
    for number, row in enumerate(rows):
        first = (longest - len(row)) // 2 if centred else 0
        out[number, first : first + len(row)] = row
    return out


def _lines(streaks: Streaks, ends: str = "ends") -> list[Line]:
    lines = []
    for orientation, points in zip(streaks.orientation.tolist(), getattr(streaks, ends).tolist()):
        (first, start), (last, stop) = (point[::-1] if orientation == "v" else point for point in points)
        lines.append(Line(orientation == "v", start, stop, first, last))
    return lines
