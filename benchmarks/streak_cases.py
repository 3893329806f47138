"""
The series of scenes that the streak finder is measured on, and what is asked of each.

References are what a prototype of the same steps reached on scenes of the same recipe, not on the same pixels;
required numbers were fixed before the finder was written. That crests, widths and noise factors are judged by their
rms over the scenes was decided later, when single ones missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streak_scenes import Recipe


@dataclass(frozen=True)
class Series:
    """
    Scenes of one recipe with seeds one after the other.

    Attributes
    ----------
    name : str
    recipe : Recipe
    scenes : int
        How many.
    reference : str
        Found by the prototype, of how many.
    required : (int, int) or None
        Trails to be found, of how many.
    config : dict
        What is not at its default.
    """

    name: str
    recipe: Recipe
    scenes: int
    reference: str = ""
    required: tuple[int, int] | None = None
    config: dict[str, Any] = field(default_factory=dict)


def _white(**more: Any) -> Recipe:
    return Recipe(kind="white", **more)


GAPPY = {"gaps": True, "corner": True, "bad_fraction": 0.01}

# Completeness that is required.
REQUIRED = (
    Series("matched 512, a = 1.0", Recipe(crest=1.0), 24, "24/24", (23, 24)),
    Series("matched 512, a = 0.7", Recipe(crest=0.7), 24, "14/24", (12, 24)),
    Series("matched 512, a = 1.5", Recipe(crest=1.5), 24, "24/24", (24, 24)),
    Series("white 512, a = 0.2", _white(crest=0.2), 16, "16/16", (15, 16)),
    Series("matched 1024, a = 0.7", Recipe(size=1024, crest=0.7), 10, "10/10", (9, 10)),
    Series("matched 512, 256 px long, a = 1.5", Recipe(length=256, crest=1.5), 12, "12/12", (11, 12)),
    Series("matched 512, 128 px long, a = 3", Recipe(length=128, crest=3.0), 12, "12/12", (11, 12)),
    Series("matched 512, flashing, a = 2", Recipe(periods=6, crest=2.0), 10, "10/10", (9, 10)),
    Series("matched 512, w = 5, a = 1.0", Recipe(width=5.0, crest=1.0), 10, "10/10", (9, 10)),
    Series("matched 512, w = 10, a = 1.0", Recipe(width=10.0, crest=1.0), 10, "10/10", (9, 10)),
)

# Completeness next to the prototype's.
MEASURED = (
    Series("white 512, a = 0.15", _white(crest=0.15), 16, "10/16"),
    Series("white 512, a = 0.3", _white(crest=0.3), 16, "16/16"),
    Series("white 512, a = 1.0", _white(crest=1.0), 16, "16/16"),
    Series("white 512, 128 px long, a = 0.3", _white(length=128, crest=0.3), 12, "3/12"),
    Series("white 512, 128 px long, a = 0.5", _white(length=128, crest=0.5), 12, "11/12"),
    Series("white 512, 128 px long, a = 0.7", _white(length=128, crest=0.7), 12, "12/12"),
    Series("white 512, 256 px long, a = 0.2", _white(length=256, crest=0.2), 12, "3/12"),
    Series("white 512, 256 px long, a = 0.3", _white(length=256, crest=0.3), 12, "12/12"),
    Series("matched 256, a = 1.0", Recipe(size=256, crest=1.0), 20, "7/20"),
    Series("matched 256, a = 1.5", Recipe(size=256, crest=1.5), 20, "20/20"),
    Series("matched 512, a = 0.5", Recipe(crest=0.5), 24, "1/24"),
    Series("matched 512, a = 0.85", Recipe(crest=0.85), 24, "21/24"),
    Series("matched 512, a = 3", Recipe(crest=3.0), 24, "24/24"),
    Series("matched 512, a = 10", Recipe(crest=10.0), 24, "24/24"),
    Series("matched 1024, a = 0.4", Recipe(size=1024, crest=0.4), 10, "3/10"),
    Series("matched 1024, a = 0.5", Recipe(size=1024, crest=0.5), 10, "8/10"),
    Series("matched 1024, a = 0.6", Recipe(size=1024, crest=0.6), 10, "10/10"),
    Series("matched 2048, a = 0.3, bin 4", Recipe(size=2048, crest=0.3), 4, "1/4", config={"bin": 4}),
    Series("matched 2048, a = 0.4, bin 4", Recipe(size=2048, crest=0.4), 4, "2/4", config={"bin": 4}),
    Series("matched 2048, a = 0.5, bin 4", Recipe(size=2048, crest=0.5), 4, "4/4", config={"bin": 4}),
    Series("matched 4096, a = 0.3", Recipe(size=4096, crest=0.3), 1, "1/1", config={"min_length": 256}),
    Series("matched 4096, a = 0.4", Recipe(size=4096, crest=0.4), 1, "1/1", config={"min_length": 256}),
    Series("matched 512, 128 px long, a = 1.5", Recipe(length=128, crest=1.5), 12, "4/12"),
    Series("matched 512, 128 px long, a = 2", Recipe(length=128, crest=2.0), 12, "9/12"),
    Series("matched 512, 256 px long, a = 1.0", Recipe(length=256, crest=1.0), 12, "3/12"),
    Series("matched 512, 256 px long, a = 2", Recipe(length=256, crest=2.0), 12, "12/12"),
    Series("matched 512, w = 5, a = 0.7", Recipe(width=5.0, crest=0.7), 10, "8/10"),
    Series("matched 512, w = 10, a = 0.6", Recipe(width=10.0, crest=0.6), 10, "7/10"),
    Series("matched 512, a = 1.0, bin 4", Recipe(crest=1.0), 16, "16/16", config={"bin": 4}),
    Series("matched 512, flashing, a = 1.5", Recipe(periods=6, crest=1.5), 8, "4/8"),
    Series("matched 512, flashing, a = 3", Recipe(periods=6, crest=3.0), 8, "8/8"),
    Series("matched 512, 3 trails, a = 1.5", Recipe(trails=3, crest=1.5), 8, "24/24"),
    Series("matched 512, 6 trails, a = 1.5", Recipe(trails=6, crest=1.5), 8, "48/48"),
    Series("matched 512, 3 trails, a = 10", Recipe(trails=3, crest=10.0), 8, "22/24"),
    Series("matched 512, 6 trails, a = 10", Recipe(trails=6, crest=10.0), 8, "46/48"),
    Series(
        "matched 512, stars, gaps, cosmic rays, a = 1.2",
        Recipe(stars=1.0, gaps=True, cosmic_rays=1.0, crest=1.2),
        16,
        "16/16",
    ),
    Series("matched 512, stars, a = 1.0", Recipe(stars=1.0, crest=1.0), 12, "12/12"),
    Series("matched 512, stars, a = 1.5", Recipe(stars=1.0, crest=1.5), 12, "12/12"),
    Series("matched 512, gaps, corner, 1 % bad, a = 1.0", Recipe(crest=1.0, **GAPPY), 16, "15/16"),
    Series("matched 512, cosmic rays 4 x, a = 1.0", Recipe(cosmic_rays=4.0, crest=1.0), 12, "12/12"),
    Series("matched 512, cosmic rays 4 x, a = 1.5", Recipe(cosmic_rays=4.0, crest=1.5), 12, "12/12"),
    Series("matched 512, sigma 1 to 6, a = 1.0", Recipe(gradient=6.0, crest=1.0), 12, "9/12"),
    Series("matched 512, sigma 1 to 6, a = 1.5", Recipe(gradient=6.0, crest=1.5), 12, "9/12"),
    *(
        Series(f"matched 512, angle {angle}, a = 1.0", Recipe(crest=1.0, angle=angle), 8, "8/8")
        for angle in (0.0, 45.0, 90.0, 1.5, 88.0)
    ),
)

# How well lines, crests, ends and masks lie.
LOOK_CLOSER = {
    "faint": Series("matched 512, a = 1.0", Recipe(crest=1.0), 24),
    "bright": Series("matched 512, a = 3", Recipe(crest=3.0), 24),
    "edge": Series("matched 512, a = 1.5", Recipe(crest=1.5), 24),
    "very bright": Series("matched 512, a = 10", Recipe(crest=10.0), 24),
    "wide": Series("matched 512, w = 5, a = 3", Recipe(width=5.0, crest=3.0), 12),
    "short": Series("matched 512, 256 px long, a = 2", Recipe(length=256, crest=2.0), 12),
    "short, bright": Series("matched 512, 256 px long, a = 5", Recipe(length=256, crest=5.0), 12),
}

# Without a trail; every kind has the same share of the images.
CLEAN = (
    ("matched, noise", Recipe(trails=0)),
    ("white, noise", _white(trails=0)),
    ("matched, stars, gaps", Recipe(trails=0, stars=1.0, **GAPPY)),
    ("matched, everything", Recipe(trails=0, stars=1.0, cosmic_rays=1.0, gradient=6.0, **GAPPY)),
    ("white, everything", _white(trails=0, stars=1.0, cosmic_rays=1.0, gradient=6.0, **GAPPY)),
)

# Proposals that the prototype did not run.
PROPOSED = (
    Series("negative trail, matched 512, a = -1.0", Recipe(crest=-1.0), 24),
    Series("bent by 2 px, matched 512, a = 1.5", Recipe(sag=2.0, crest=1.5), 12),
    Series("bent by 6 px, matched 512, a = 3", Recipe(sag=6.0, crest=3.0), 12),
    Series("bent by 20 px, matched 512, a = 3", Recipe(sag=20.0, crest=3.0), 12),
    Series("across gaps and a corner, matched 512, a = 3", Recipe(crest=3.0, **GAPPY), 16),
)
