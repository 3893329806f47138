"""The NumPy twins: the definition of what the CUDA kernels compute. Installed as `gpucoadd.fallback`."""

from .background_level import background_level, background_residual
from .cell_means import cell_means
from .cells import merge_cells
from .comparison import Compared, Search, compare
from .filling import fill_bad_runs
from .flags import add_flags, any_flag, as_flags, as_planes, as_words, paint, take_flags, unpack
from .footprints import count_by_label, same_under, sum_by_label
from .growing import grow
from .labelling import label
from .plane_statistics import all_nan, clipped_means, clipped_statistics, quantiles
from .samples import Rules
from .scaling import scale
from .smoothing import smooth
from .stacking import stacking_masks
from .statistics import stack_statistics

__all__ = [
    "Compared",
    "Rules",
    "Search",
    "add_flags",
    "all_nan",
    "any_flag",
    "as_flags",
    "as_planes",
    "as_words",
    "background_level",
    "background_residual",
    "cell_means",
    "clipped_means",
    "clipped_statistics",
    "compare",
    "count_by_label",
    "fill_bad_runs",
    "grow",
    "label",
    "merge_cells",
    "paint",
    "quantiles",
    "same_under",
    "scale",
    "smooth",
    "stack_statistics",
    "stacking_masks",
    "sum_by_label",
    "take_flags",
    "unpack",
]
