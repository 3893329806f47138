"""Where the tasks compute: the configuration field, and how pixels get there and back."""

from __future__ import annotations

from lsst.pex.config import Field

from ..backend import array_module, is_host, parse_device, to_device
from ..images import MaskedImage


def device_field() -> Field:
    """
    The field `device` of a task's configuration.

    Its words are those of `gpucoadd.backend.resolve_device`; any other is an error when it is set. Whether the device
    is there, the machine says that runs the task.
    """
    return Field(
        dtype=str,
        default="auto",
        doc="Where to compute: 'auto' (a GPU when there is one), 'cpu', 'cuda' (also 'gpu') or 'cuda:N' ('gpu:N')",
        check=_is_word,
    )


def _is_word(device: str) -> bool:
    """True; else the ValueError of `parse_device`, which says more than False."""
    parse_device(device)
    return True


def on_device(image: MaskedImage, device: str) -> MaskedImage:
    """`image` with its planes on a device, errors as of `resolve_device`; if they are on one already, they stay."""
    if not is_host(array_module(image.image)):
        return image
    return image.with_planes(*(to_device(plane, device) for plane in (image.image, image.variance, image.mask)))
