"""Options of `decorrelate`, and how they are made of LSST's field names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .cells import CellGrid
from .filtering import PRECISIONS
from .options import check_names, group, option, unknown, with_overrides

IGNORED_PLANES = ("INTRP", "EDGE", "DETECTED", "SAT", "CR", "BAD", "NO_DATA", "DETECTED_NEGATIVE")
EDGES = ("zero", "reflect")

_WHOLE, _MAP_REDUCE, _MAPPER = "decorrelateConfig", "decorrelateMapReduceConfig", "decorrelateMapReduceConfig.mapper"


@dataclass(frozen=True, kw_only=True)
class DecorrelationConfig:
    """
    Options of `decorrelate`.

    Attributes
    ----------
    ignore_planes : tuple of str
        Planes whose pixels do not count in the variance means (LSST: ignoreMaskPlanes). Of the default list, planes
        that a mask does not have are skipped; in any other list all must exist.
    complete_variance : bool
        Convolve the variance planes with the squared kernels, instead of scaling them (completeVarPlanePropagation).
    cells : CellGrid or None
        None is the whole image at once (decorrelateMapReduceConfig).
    precision : {"double", "single"}
        Of the image's transforms.
    edge : {"zero", "reflect"}
        What lies beyond the edge of the image.

    Raises
    ------
    TypeError, ValueError
        If a value is not one of these.
    """

    ignore_planes: tuple[str, ...] = IGNORED_PLANES
    complete_variance: bool = False
    cells: CellGrid | None = None
    precision: str = PRECISIONS[0]
    edge: str = EDGES[0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore_planes", check_names("ignore_planes", self.ignore_planes))
        if not isinstance(self.complete_variance, bool):
            raise TypeError(f"complete_variance must be True or False, got {self.complete_variance!r}")
        if self.cells is not None and not isinstance(self.cells, CellGrid):
            raise TypeError(f"cells must be a CellGrid or None, got {type(self.cells).__name__}")
        for name, value, allowed in (("precision", self.precision, PRECISIONS), ("edge", self.edge, EDGES)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")

    @classmethod
    def from_lsst(cls, overrides: Mapping[str, Any], *, spatially_varying: bool | None = None) -> DecorrelationConfig:
        """
        Options from dotted names of LSST's DecorrelateALKernelSpatialConfig or DecorrelateALKernelConfig.

        Parameters
        ----------
        overrides : mapping of str to object
            Such as ``{"decorrelateMapReduceConfig.cellSizeX": 60.0}`` or ``{"completeVarPlanePropagation": True}``. A
            name without prefix applies to the whole image and to cells; ``decorrelateConfig.`` (whole image) and
            ``decorrelateMapReduceConfig.mapper.`` (cells) come before it.
        spatially_varying : bool, optional
            Whether to work in cells, an argument of LSST's task; when left out, whether `overrides` names a field of
            ``decorrelateMapReduceConfig``.

        Raises
        ------
        ValueError
            If a name is unknown (the nearest are given) or a value is not valid.

        Examples
        --------
        >>> config = DecorrelationConfig.from_lsst({"decorrelateMapReduceConfig.borderSizeX": 4.0})
        >>> config.cells.border_size
        (8.0, 4.0)
        """
        cells = {name: value for name, value in overrides.items() if _is_of_cells(name)}
        if spatially_varying is None:
            spatially_varying = any(name.startswith(f"{_MAP_REDUCE}.") for name in overrides)
        fields = with_overrides(
            _Fields(), {name: value for name, value in overrides.items() if name not in cells}, own_names=False
        )
        grid = CellGrid.from_lsst(cells, defaults=CellGrid(), prefix=f"{_MAP_REDUCE}.")
        prefix, part = (_MAPPER, fields.mapper) if spatially_varying else (_WHOLE, fields.whole)
        return cls(
            ignore_planes=(part if f"{prefix}.ignoreMaskPlanes" in overrides else fields.task).ignore_planes,
            complete_variance=(
                part if f"{prefix}.completeVarPlanePropagation" in overrides else fields.task
            ).complete_variance,
            cells=grid if spatially_varying else None,
        )

    @classmethod
    def from_names(cls, options: Mapping[str, Any], *, cells: bool | None = None) -> DecorrelationConfig:
        """
        Options from LSST's dotted names or ours (``precision``, ``cells.cell_size``); ours come last.

        Parameters
        ----------
        options : mapping of str to object
        cells : bool, optional
            As `spatially_varying` of `from_lsst`; names ``cells.`` count as well.

        Raises
        ------
        TypeError, ValueError
            As in `from_lsst`.
        """
        ours = {field.name for field in dataclasses.fields(cls)} - {"cells"}
        grid_names = {f"cells.{field.name}" for field in dataclasses.fields(CellGrid)}
        for name in options:
            if name.startswith("cells.") and name not in grid_names:
                raise unknown(name, grid_names)
        own = {name: value for name, value in options.items() if name in ours}
        grid_own = {name.removeprefix("cells."): v for name, v in options.items() if name in grid_names}
        lsst = {name: value for name, value in options.items() if name not in ours | grid_names}
        if cells is None and grid_own:
            cells = True
        config = dataclasses.replace(cls.from_lsst(lsst, spatially_varying=cells), **own)
        if config.cells is None or not grid_own:
            return config
        return dataclasses.replace(config, cells=dataclasses.replace(config.cells, **grid_own))

    def as_names(self) -> dict[str, Any]:
        """Every option under our dotted name, for provenance."""
        names = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        grid = names.pop("cells")
        if grid is not None:
            names |= {f"cells.{field.name}": getattr(grid, field.name) for field in dataclasses.fields(grid)}
        return names


@dataclass(frozen=True, kw_only=True)
class _TaskFields:
    """Fields of DecorrelateALKernelConfig."""

    ignore_planes: tuple[str, ...] = option("ignoreMaskPlanes", IGNORED_PLANES)
    complete_variance: bool = option("completeVarPlanePropagation", False)


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """Where these stand in DecorrelateALKernelSpatialConfig; `task` is the plain configuration."""

    task: _TaskFields = group("", _TaskFields())
    whole: _TaskFields = group(_WHOLE, _TaskFields())
    mapper: _TaskFields = group(_MAPPER, _TaskFields())


def _is_of_cells(name: str) -> bool:
    """Whether a name is one of ImageMapReduceConfig, not of its mapper."""
    return name.startswith(f"{_MAP_REDUCE}.") and not name.startswith(f"{_MAPPER}.")
