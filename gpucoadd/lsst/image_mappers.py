"""The operation of image map-reduce on one cell."""

from __future__ import annotations

import abc
from typing import Any

from lsst.pipe.base import Struct, Task

from .overrides import OverridableConfig


class ImageMapperConfig(OverridableConfig):
    """Configuration of an `ImageMapper`: nothing."""


class ImageMapper(Task, abc.ABC):
    """Base of the tasks that `ImageMapReduceTask` runs on every cell."""

    ConfigClass = ImageMapperConfig
    _DefaultName = "ip_diffim_ImageMapper"

    @abc.abstractmethod
    def run(self, subExposure: Any, expandedSubExposure: Any, fullBBox: Any, **kwargs: Any) -> Struct:
        """
        Work on one cell.

        Parameters
        ----------
        subExposure, expandedSubExposure : exposure
            Copies of the pixels of the cell and of the cell with its border, in the kind that came; they may be
            written to.
        fullBBox : box
            Of the whole exposure, in the kind of its own.
        **kwargs
            All keyword arguments of `ImageMapReduceTask.run`.

        Returns
        -------
        lsst.pipe.base.Struct
            ``subExposure``, an exposure inside the whole one; with the reduce operation "coaddPsf" ``psf`` and
            ``bbox`` do as well, with "none" anything.
        """
