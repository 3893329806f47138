"""Options of the streak finder."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .options import option

SIGNS = ("both", "positive", "negative")
BAD_PLANES = ("NO_DATA", "INTRP", "BAD", "SAT", "EDGE")  # of pixels that are not searched; LSST's for streaks
FLAGGED_PLANES = ("SAT", "BAD", "SUSPECT")  # of what bleeds, and what is near it


@dataclass(frozen=True, kw_only=True)
class StreakConfig:
    """
    Search for satellite trails, and for other long straight lines, in differences.

    Attributes
    ----------
    enabled : bool
        Whether the coadd searches; `find_streaks` does not ask.
    min_length : int
        Shortest line searched for, in pixels; those found may be a fifth shorter.
    bin : int or None
        Side of the bins that are summed along lines; None: 2 where the PSF is narrow (sigma < 2.4 pixels) or the image
        small (1024 pixels or less), else 4.
    clip : float
        No pixel counts for more than so many standard deviations.
    mesh : int
        Side of the meshes of the background, in pixels, which is subtracted from images with a shorter side of two
        meshes or more; 0 for none.
    false_alarm : float
        How many lines to find, per image and sign, where there is nothing but noise.
    signs : str
        "both", "positive" or "negative"; a negative line is a trail left in the template, or a dark column.
    spread : float
        Share of the significance that must remain without the 3 best of 16 pieces of a line: what is less is a row
        of a few bright spots.
    mask_level : float
        A line is masked as far out as it is brighter than this, in standard deviations of a pixel.
    max_lines : int
        Most lines reported.
    persistence : int
        In how many other epochs a line must be seen to be one of the sky or of the detector, and no trail. One is
        enough if there are at most three, and for lines within two degrees of a row or column; so is a third of them,
        if these are as many, where it is faint. In a coadd, as many as `Persistence` allows an artifact, at least.

    Raises
    ------
    TypeError, ValueError
        If a value is not one of these.
    """

    enabled: bool = option(None, True)
    min_length: int = option(None, 128)
    bin: int | None = option(None, None)
    clip: float = option(None, 3.0)
    mesh: int = option(None, 128)
    false_alarm: float = option(None, 1e-3)
    signs: str = option(None, "both")
    spread: float = option(None, 0.6)
    mask_level: float = option(None, 0.1)
    max_lines: int = option(None, 12)
    persistence: int = option(None, 2)

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise TypeError(f"streaks.enabled must be True or False, got {self.enabled!r}")
        for name, low in (("min_length", 16), ("mesh", 0), ("max_lines", 1), ("persistence", 1)):
            _check_whole(name, getattr(self, name), low)
        if self.bin is not None:
            _check_whole("bin", self.bin, 1)
        if 0 < self.mesh < 16:
            raise ValueError(f"streaks.mesh must be 0 (no background) or at least 16, got {self.mesh!r}")
        for name in ("clip", "mask_level"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"streaks.{name} must be positive and finite, got {value!r}")
        if not 0 < self.false_alarm < 1:
            raise ValueError(f"streaks.false_alarm must be between 0 and 1, got {self.false_alarm!r}")
        if not 0 <= self.spread < 1:
            raise ValueError(f"streaks.spread must be from 0 to below 1, got {self.spread!r}")
        if self.signs not in SIGNS:
            raise ValueError(f"streaks.signs must be one of {', '.join(SIGNS)}, got {self.signs!r}")


def _check_whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"streaks.{name} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"streaks.{name} must be at least {low}, got {value!r}")
