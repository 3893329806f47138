"""Outputs of a command: checked before the work, written aside, and moved into place together."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .arguments import UsageError


def check_outputs(files: Sequence[str], folder: str | None, *, inputs: Sequence[str]) -> None:
    """Raise unless all outputs can be written; done first, for a coadd may take an hour."""
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise UsageError(f"two outputs have one name: {', '.join(files)}")
    taken = {os.path.realpath(path) for path in inputs}
    for path in filter(os.path.isdir, inputs):
        taken.update(os.path.realpath(os.path.join(path, name)) for name in os.listdir(path))
    for file in files:
        if os.path.isdir(file):
            raise IsADirectoryError(f"cannot write {file}: it is a folder; give the name of a file")
        if os.path.realpath(file) in taken:
            raise ValueError(f"{file} is an input too; give the output another name")
        parent = os.path.dirname(os.path.realpath(file))
        if not os.path.exists(parent):
            raise FileNotFoundError(f"cannot write {file}: there is no folder {os.path.dirname(file)}; make it first")
        _check_folder(file, parent)
    if folder is not None:
        if os.path.realpath(folder) in taken:
            raise ValueError(f"{folder} holds inputs; write the results to another folder")
        _check_folder(folder, os.path.realpath(folder))


def _check_folder(output: str, folder: str) -> None:
    """Raise OSError unless `folder` can be written to, or made."""
    existing = folder
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise NotADirectoryError(f"cannot write {output}: {existing} is not a folder")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise PermissionError(f"cannot write {output}: no file can be made in {existing}") from error


class Staging:
    """
    Files written aside, in the file system they are for, and moved into place together at the end.

    When the block is left by an exception, all of them go, and so do the folders made for them.
    """

    def __init__(self) -> None:
        self._moves: list[tuple[Path, Path]] = []
        self._asides: dict[Path, Path] = {}
        self._made: list[Path] = []

    def place(self, target: str | os.PathLike[str]) -> Path:
        """Where to write what becomes `target`."""
        final = Path(os.path.realpath(target))
        if final.parent not in self._asides:
            self._make(final.parent)
            self._asides[final.parent] = Path(tempfile.mkdtemp(prefix=".gpucoadd-", dir=final.parent))
        aside = self._asides[final.parent] / final.name
        self._moves.append((aside, final))
        return aside

    def _make(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir()
            self._made.append(new)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                for aside, final in self._moves:
                    os.replace(aside, final)
                self._made.clear()
        finally:
            for aside in self._asides.values():
                shutil.rmtree(aside, ignore_errors=True)
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # something else is in it by now
                    folder.rmdir()


def file_name(epoch: Any) -> str:
    """`epoch` as a file name: what a file system may stumble over becomes _."""
    return re.sub(r"[^\w.+-]", "_", str(epoch)).lstrip(".") or "_"
