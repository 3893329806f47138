"""The NumPy twins: the definition of what the CUDA kernels compute. Installed as `gpucoadd.fallback`."""

from .growing import grow
from .labelling import label
from .samples import Rules
from .statistics import stack_statistics

__all__ = ["Rules", "grow", "label", "stack_statistics"]
