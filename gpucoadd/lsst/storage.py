"""
Storage classes for a Butler repository without the LSST stack, and how they are files.

Files are FITS in the layout of LSST's afw; what is read may be in any layout that `gpucoadd.read_image` knows, so that
files made elsewhere can be ingested. A repository that others share cannot be taught new classes: there, tasks are
given `ExposureF` or `MaskedImageV2`, which every Butler knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, ClassVar

import numpy as np
from lsst.daf.butler import FormatterV2, StorageClassDelegate
from lsst.resources import ResourcePath

from ..backend import Array, to_host
from ..fits import write_array, write_mask, write_planes
from ..masks import MaskSchema
from ..pieces import PLANES, ImageFile, read_plane
from ..writing import square_of
from .plain import PlainImage, PlainMask, PlainMaskedImage


def butler_config() -> dict[str, Any]:
    """
    What the ``butler.yaml`` of a repository needs to hold the plain classes.

    Returns
    -------
    dict
        Nested, of texts and lists: the definitions of the storage classes and which formatter writes each. Give it to
        ``Butler.makeRepo(root, config=lsst.daf.butler.Config(butler_config()))``, or add it to an existing file.

    Notes
    -----
    The formatters take the write parameter ``compression``: "none", "lossless", and "lossy" for masked images.
    """
    here, plain = "gpucoadd.lsst.storage", "gpucoadd.lsst.plain"
    planes = {"image": "PlainImage", "mask": "PlainMask", "variance": "PlainImage"}
    about = {"bbox": "PlainBox", "wcs": "PlainWcs"}
    told = {"unit": "PlainText", "psf": "PlainPsf", "psf_sigma": "PlainNumber", "metadata": "StructuredDataDict"}
    components = {
        "PlainMaskedImage": {**planes, **about, "schema": "PlainSchema", **told},
        "PlainMask": {**about, "schema": "PlainSchema"},
        "PlainImage": {**about, "unit": "PlainText"},
    }
    classes: dict[str, dict[str, Any]] = {
        name: {
            "pytype": f"{plain}.{name}",
            "delegate": f"{here}.PlainDelegate",
            "parameters": ["bbox"],
            "derivedComponents": derived,
        }
        for name, derived in components.items()
    }
    classes["PlainMaskedImage"]["converters"] = {"gpucoadd.images.MaskedImage": f"{plain}.PlainMaskedImage.of"}
    types = {
        "PlainBox": "gpucoadd.exposures.Box",
        "PlainNumber": "float",
        "PlainPsf": "gpucoadd.point_spread.Psf",
        "PlainSchema": "gpucoadd.masks.MaskSchema",
        "PlainText": "str",
        "PlainWcs": "astropy.wcs.WCS",
    }
    return {
        "storageClasses": {**classes, **{name: {"pytype": pytype} for name, pytype in types.items()}},
        "datastore": {"formatters": {name: f"{here}.{name}Formatter" for name in components}},
    }


class PlainDelegate(StorageClassDelegate):
    """Boxes and components of plain objects that are in memory."""

    def getComponent(self, composite: Any, componentName: str) -> Any:
        """The attribute of that name; of a masked image, planes with their place."""
        if componentName in PLANES and isinstance(composite, PlainMaskedImage):
            return composite.part(componentName)
        return super().getComponent(composite, componentName)

    def handleParameters(self, inMemoryDataset: Any, parameters: Mapping[str, Any] | None = None) -> Any:
        """The pixels of the parameter `bbox`, which is what `gpucoadd.exposures.as_box` takes."""
        box = (parameters or {}).get("bbox")
        return inMemoryDataset if box is None else inMemoryDataset.cutout(box)


class _PlainFormatter(FormatterV2):
    """FITS; the parameter `bbox` is what `gpucoadd.exposures.as_box` takes."""

    default_extension = ".fits"
    supported_extensions: ClassVar[Set[str]] = frozenset({".fits", ".fits.gz", ".fits.fz"})
    supported_write_parameters: ClassVar[Set[str] | None] = frozenset({"compression"})
    can_read_from_local_file = True

    @property
    def box(self) -> Any:
        """What is asked for; None for everything."""
        return (self.file_descriptor.parameters or {}).get("bbox")


class PlainMaskedImageFormatter(_PlainFormatter):
    """`PlainMaskedImage`: IMAGE, MASK, VARIANCE and PSF; of components, no more than they need is read."""

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """A component, or all of it; ValueError if the box is not inside, or the file damaged."""
        with ImageFile(path) as file:
            if component is not None and component not in PLANES:
                return file.box if component == "bbox" else getattr(file, component)
            box, wcs = file.place(self.box)
            place: dict[str, Any] = {"origin": box.origin, "wcs": wcs}
            if component == "mask":
                return PlainMask(file.plane("mask", self.box), schema=file.schema, **place)
            if component is not None:
                unit = square_of(file.unit) if component == "variance" and file.unit is not None else file.unit
                return PlainImage(file.plane(component, self.box), unit=unit, **place)
            image, variance, mask = file.read(self.box)
            about: dict[str, Any] = {"unit": file.unit, "psf": file.psf, "psf_sigma": file.psf_sigma, **place}
            return PlainMaskedImage(image, variance, mask, schema=file.schema, metadata=file.metadata, **about)

    def write_local_file(self, in_memory_dataset: PlainMaskedImage, uri: ResourcePath) -> None:
        """All of it; ValueError if a mask bit has no name."""
        image = in_memory_dataset
        _check_named(image.mask, image.schema)
        write_planes(
            uri.ospath,
            image=image.image,
            variance=image.variance,
            mask=image.mask,
            schema=image.schema,
            origin=image.origin,
            wcs=image.wcs,
            unit=image.unit,
            psf=image.psf,
            psf_sigma=image.psf_sigma,
            metadata=image.metadata,
            **self.write_parameters,
        )


class PlainMaskFormatter(_PlainFormatter):
    """`PlainMask`: MASK."""

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """A component, or all of it; ValueError if the box is not inside, or the file damaged."""
        found = read_plane(path, name="MASK", box=self.box, pixels=component is None)
        if component is not None:
            return found.box if component == "bbox" else getattr(found, component)
        assert found.array is not None and found.schema is not None
        return PlainMask(found.array, schema=found.schema, origin=found.box.origin, wcs=found.wcs)

    def write_local_file(self, in_memory_dataset: PlainMask, uri: ResourcePath) -> None:
        """All of it; ValueError if a mask bit has no name."""
        mask = in_memory_dataset
        _check_named(mask.mask, mask.schema)
        about: dict[str, Any] = {"schema": mask.schema, "origin": mask.origin, "wcs": mask.wcs}
        write_mask(uri.ospath, mask.mask, **about, **self.write_parameters)


class PlainImageFormatter(_PlainFormatter):
    """`PlainImage`: IMAGE."""

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """A component, or all of it; ValueError if the box is not inside, or the file damaged."""
        found = read_plane(path, box=self.box, pixels=component is None)
        if component is not None:
            return found.box if component == "bbox" else getattr(found, component)
        assert found.array is not None
        return PlainImage(found.array, origin=found.box.origin, wcs=found.wcs, unit=found.unit)

    def write_local_file(self, in_memory_dataset: PlainImage, uri: ResourcePath) -> None:
        """All of it."""
        image = in_memory_dataset
        about: dict[str, Any] = {"origin": image.origin, "wcs": image.wcs, "unit": image.unit}
        write_array(uri.ospath, image.image, **about, **self.write_parameters)


def _check_named(mask: Array, schema: MaskSchema) -> None:
    """Raise ValueError if a bit is set that has no name, for no reader could take it."""
    present = int(np.bitwise_or.reduce(to_host(mask), axis=None)) & 0xFFFFFFFF
    unnamed = [bit for bit in range(32) if present & ~schema.bitmask(*schema) & (1 << bit)]
    if unnamed:
        raise ValueError(
            f"mask bits {', '.join(map(str, unnamed))} are set but have no name; schema must name every bit in use, it "
            f"has {', '.join(schema)}"
        )
