"""
The device twins: CUDA, in the .cu files beside the launcher that knows each. Installed as `gpucoadd.kernels`.

What is imported here has a twin of the same name in `gpucoadd.fallback`. `windows`, `corrections`, `plans` and `bytes`
have none, for the host does those steps in blocks that fit its cache, or not at all; `backend.launchers` finds them.
"""

from .background_level import background_level, background_residual
from .cell_means import cell_means
from .cells import merge_cells
from .comparison import compare
from .filling import fill_bad_runs
from .flags import add_flags, any_flag, as_flags, as_planes, as_words, paint, take_flags, unpack
from .footprints import count_by_label, same_under, sum_by_label
from .growing import grow
from .labelling import label
from .plane_statistics import all_nan, clipped_means, clipped_statistics, quantiles
from .scaling import scale
from .smoothing import smooth
from .stacking import stacking_masks
from .statistics import stack_statistics

__all__ = [
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
