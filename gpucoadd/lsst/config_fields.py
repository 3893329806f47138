"""Fields of subtasks whose work is done here, whatever task they are pointed at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

from lsst.pex.config import Config, ConfigurableField, ConfigurableInstance


class _NotRunHere(ValueError):
    """pex_config reads `message`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Later:
    """
    A target whose module cannot be imported yet.

    Parameters
    ----------
    name : str
        Of the class.
    config_class : type
        Its configuration.
    load : callable
        Imports the class.
    """

    def __init__(self, name: str, config_class: type[Config], load: Callable[[], type]) -> None:
        self.__name__, self.ConfigClass, self.load = name, config_class, load

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """An object of the class."""
        return self.load()(*arguments, **keywords)


class RunHereField(ConfigurableField):
    """
    A subtask that gpucoadd runs: it may be retargeted to LSST's own class, by its name, and to no other.

    Target and configuration stay gpucoadd's.
    """

    target: Any

    def __get__(self, instance: Any, owner: Any = None, at: Any = None, label: str = "default") -> Any:
        """The configuration, pointed at gpucoadd's target; of a class of configurations, the field."""
        if instance is not None and isinstance(self.target, Later):
            self.target = self.target.load()
        value = super().__get__(instance, owner, at=at, label=label)
        if isinstance(value, ConfigurableInstance):
            object.__setattr__(value, "_target", self.target)
        return value

    def save(self, outfile: TextIO, instance: Config) -> None:
        """As a field that was not retargeted."""
        self.__get__(instance)
        super().save(outfile, instance)

    def validateTarget(self, target: Any, ConfigClass: type[Config] | None) -> type[Config]:
        """The configuration class, or an error that says that `target` is not run here."""
        ours = getattr(self, "target", None)
        if ours is None:
            return super().validateTarget(target, ConfigClass)
        if getattr(target, "__name__", "").rpartition(".")[2] != ours.__name__:
            raise _NotRunHere(
                f"{getattr(target, '__name__', target)!s} is not run here: what gpucoadd does in this place is what "
                f"{ours.__name__} does in LSST; leave the field as it is, or use the LSST stack for another task"
            )
        return self.ConfigClass
