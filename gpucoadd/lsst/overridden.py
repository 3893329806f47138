"""Methods of the tasks that are there to be called, and that it would be in vain to override."""

from __future__ import annotations

from collections.abc import Iterable


def check_overridden(task: object, names: Iterable[str], *, by: str) -> None:
    """
    Raise if a class of a user's overrides a method which no other asks.

    Parameters
    ----------
    task : object
    names : iterable of str
        The methods.
    by : str
        The method that does what they do, for whole arrays at once.

    Raises
    ------
    TypeError
        If one is overridden outside of gpucoadd.
    """
    for name in names:
        if not getattr(type(task), name).__module__.startswith("gpucoadd."):
            raise TypeError(
                f"{type(task).__name__} overrides {name}, which is there to be called and which {by} does not ask: it "
                f"works on whole arrays at once; override {by} instead"
            )
