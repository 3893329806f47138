"""
CUDA kernels on a machine without a GPU: the very text of a .cu file, built by a C++ compiler and run on the CPU.

`RawModule` takes the place of CuPy's. Every launch checks what a GPU would accept silently and get wrong: the number
and the exact types of the arguments, the limits of grid and block, reads and writes outside the arrays, writes into
`const` ones, barriers that not all threads reach (see host_cuda.cpp). Inside `shuffled(seed)` threads run in random
order and change places where others could see it, so that races show. `launches` counts the launches of each kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import getpass
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

launches: Counter[str] = Counter()
SECONDS = 60.0  # a launch may take

FLAGS = (
    "-std=c++17 -O1 -ffp-contract=off -fno-fast-math -fsigned-char -fno-strict-aliasing -fno-exceptions "
    "-fPIC -fvisibility=hidden -w -U_FORTIFY_SOURCE".split()
)
HOOKS = (
    "-fsanitize=thread,bounds",
)  # for their calls at reads and writes and wrong indices, which host_cuda.cpp takes
HEADER, SCHEDULER = (Path(__file__).with_name(f"host_cuda.{ending}") for ending in ("h", "cpp"))
REASON = "no C++ compiler: install g++ or clang, or pip install ziglang"

TYPES = {
    "bool": np.bool_,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "short": np.int16,
    "unsigned short": np.uint16,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "float": np.float32,
    "double": np.float64,
}
_MOST_BLOCKS = (2**31 - 1, 65535, 65535)
_MOST_THREADS = (1024, 1024, 64)
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\s*\(([^()]*)\)\s*)?void\s+'
    r"(?:__launch_bounds__\s*\(([^()]*)\)\s*)?(\w+)\s*\(([^()]*)\)"
)
_GUARD = 4096
_ALIGNMENT = 512  # of CuPy's allocations
_PATTERN = np.uint32(0x7FFFFFFF)  # NaN as float and as double, the largest number as int
_lock = threading.RLock()  # the scheduler of host_cuda.h knows one launch at a time
_schedule: dict[str, Any] = {"seed": None, "count": 0}


def reset() -> None:
    """Set the counts of launches to zero."""
    launches.clear()


@contextlib.contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Context in which threads of every launch run in a random order drawn from `seed`."""
    before = dict(_schedule)
    _schedule.update(seed=int(seed), count=0)
    try:
        yield
    finally:
        _schedule.update(before)


@functools.cache
def compiler() -> tuple[str, ...]:
    """Command that compiles C++; empty when there is none. The environment variable CXX comes first."""
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        words = name.split()
        # Asked for its version, as on a Mac without developer tools g++ is there and does nothing.
        if (
            words
            and shutil.which(words[0])
            and not subprocess.run([*words, "--version"], capture_output=True).returncode
        ):
            return (shutil.which(words[0]), *words[1:])
    if importlib.util.find_spec("ziglang") is None:
        return ()
    return (sys.executable, "-m", "ziglang", "c++")


def available() -> bool:
    """Whether there is a C++ compiler."""
    return bool(compiler())


@functools.cache
def _toolchain() -> str:
    """Everything but the source that decides what comes out of the compiler."""
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    files = [file.read_text(encoding="utf-8") for file in (HEADER, SCHEDULER)]
    return "\n".join([*compiler(), version, platform.machine(), *FLAGS, *HOOKS, *files])


def _cache() -> Path:
    """Folder of the built libraries, one per user."""
    folder = Path(tempfile.gettempdir()) / f"gpucoadd-hostcuda-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _call(what: str, *arguments: str | Path) -> str:
    done = subprocess.run([*compiler(), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stderr[:4000]}")
    return done.stdout


@contextlib.contextmanager
def _made(file: Path) -> Iterator[Path]:
    """Place to write a file of the cache to; put in its place whole, as other processes may look for it."""
    with tempfile.TemporaryDirectory(dir=_cache()) as folder:
        new = Path(folder) / f"new{file.suffix}"
        yield new
        os.replace(new, file)


def _key(*texts: str) -> str:
    return hashlib.sha256("\0".join([_toolchain(), *texts]).encode()).hexdigest()[:32]


@functools.cache
def _scheduler() -> Path:
    """host_cuda.cpp, compiled."""
    file = _cache() / f"{_key()}.o"
    if not file.exists():
        with _made(file) as new:
            _call("compiling host_cuda.cpp", *FLAGS, "-c", SCHEDULER, "-o", new)
    return file


class Parameter:
    """One parameter of a kernel: its C type, and what is asked of the argument."""

    def __init__(self, text: str, names: dict[str, str]):
        self.text = " ".join(text.split())
        match = re.fullmatch(r"(.*?)(\*?)\s*((?:__restrict__|const)?)\s*(\w+)", self.text)
        words = match[1].split() if match else []
        self.const = "const" in words
        base = " ".join(w for w in words if w != "const")
        while base in names:
            base = names[base]
        if match is None or base not in TYPES:
            raise TypeError(
                f"parameter {self.text!r} has no type with a fixed size that a launch can pass; use one of "
                f"{', '.join(TYPES)}, or a pointer to it"
            )
        self.pointer = bool(match[2])
        self.restrict = match[3] == "__restrict__"
        self.name = match[4]
        self.dtype = np.dtype(TYPES[base])
        self.c_type = f"{'const ' if self.const and self.pointer else ''}{base}{' *' if self.pointer else ''}"


def signatures(text: str) -> dict[str, tuple[list[Parameter], int]]:
    """
    Parameters and the most threads per block of every kernel in a preprocessed text.

    Raises
    ------
    TypeError
        If a parameter has a type whose size differs between platforms, or none that is known.
    """
    names = {
        new: " ".join(old.split())
        for pattern, swap in (
            (r"\btypedef\s+([\w\s]+?)\s+(\w+)\s*;", False),
            (r"\busing\s+(\w+)\s*=\s*([\w\s]+?)\s*;", True),
        )
        for old, new in (m[::-1] if swap else m for m in re.findall(pattern, text))
    }
    found = {}
    for before, after, name, parameters in _KERNEL.findall(text):
        most = (before or after or "1024").split(",")[0].strip()
        listed = [p for p in parameters.split(",") if p.strip() not in ("", "void")]
        found[name] = ([Parameter(p, names) for p in listed], int(most) if most.isdigit() else 1024)
    return found


def _wrappers(kernels: dict[str, tuple[list[Parameter], int]]) -> str:
    """C functions that unpack the arguments of each kernel."""
    text = ""
    for name, (parameters, _) in kernels.items():
        values = ", ".join(f"*({p.c_type} *)a[{i}]" for i, p in enumerate(parameters))
        text += (
            f"static void call_{name}(void **a) {{ {name}({values}); }}\n"
            f'extern "C" __attribute__((visibility("default"))) int launch_{name}(const host_cuda::Launch *launch, '
            f"void **a, char *message, int length) {{ "
            f"return host_cuda::run(launch, call_{name}, a, message, length); }}\n"
        )
    return text


@functools.lru_cache(maxsize=256)
def _built(code: str, options: tuple[str, ...]) -> tuple[ctypes.CDLL, dict[str, tuple[list[Parameter], int]]]:
    """Shared library from the text of a .cu file, and its kernels."""
    if not available():
        raise RuntimeError(REASON)
    defines = [o for o in options if o.startswith("-D")]
    plain = _cache() / f"{_key(code, *defines)}.ii"
    if not plain.exists():
        with _made(plain) as new:
            source = new.with_name("kernel.cu")
            source.write_text(code, encoding="utf-8")
            # By itself, without the header: only then is it known which kernels and types the macros leave.
            new.write_text(
                _call("preprocessing", FLAGS[0], *defines, "-E", "-P", "-x", "c++", source), encoding="utf-8"
            )
    kernels = signatures(plain.read_text(encoding="utf-8"))
    # Inside a namespace without a name, so that templates and inline functions stay in this library.
    text = f'#include "{HEADER}"\nnamespace {{\n#line 1 "kernel.cu"\n{code}\n}}\n{_wrappers(kernels)}'
    library = _cache() / f"{_key(text, *defines)}.so"
    if not library.exists():
        with _made(library) as new:
            source, part = new.with_name("kernel.cpp"), new.with_name("kernel.o")
            source.write_text(text, encoding="utf-8")
            _call("compiling for the CPU", *FLAGS, *HOOKS, *defines, "-c", source, "-o", part)
            _call("linking", "-shared", part, _scheduler(), "-o", new)
    return ctypes.CDLL(str(library)), kernels


class _Array(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("first", ctypes.c_ulong),
        ("size", ctypes.c_ulong),
        ("writable", ctypes.c_int),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("mode", ctypes.c_int),
        ("n_arrays", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
        ("seconds", ctypes.c_double),
        ("arena", ctypes.c_void_p),
        ("arena_size", ctypes.c_ulong),
        ("arrays", ctypes.POINTER(_Array)),
    )


LOOP, ORDERED, SHUFFLED = 0, 1, 2
FINE, FAILED, NEEDS_FIBERS = 0, 1, 2


class _Watch:
    """Ends the process when a kernel neither ends nor reaches anything where it could be stopped."""

    def __init__(self) -> None:
        self.deadline, self.name, self.pid = None, "", None

    def start(self, name: str) -> None:
        self.name, self.deadline = name, time.monotonic() + 1.1 * SECONDS + 1
        if self.pid != os.getpid():
            self.pid = os.getpid()
            threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        self.deadline = None

    def _run(self) -> None:
        while True:
            time.sleep(1)
            deadline = self.deadline
            if deadline is not None and time.monotonic() > deadline:
                os.write(2, f"\nkernel {self.name} still runs after {SECONDS:g} s; the process ends\n".encode())
                os._exit(70)


_watch = _Watch()


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _laid_out(array: np.ndarray) -> bool:
    """Whether an array is C-contiguous, but for what a stack of planes may leave out between them."""
    if array.ndim < 2 or array.shape[0] < 2:
        return array.flags.c_contiguous
    return array[:1].flags.c_contiguous and array.strides[0] >= array[:1].nbytes


class _Part:
    """One array of a launch and where its copy lies."""

    def __init__(self, parameter: Parameter, array: np.ndarray, first: int):
        self.name, self.array, self.first, self.writable = parameter.name, array, first, not parameter.const
        self.restrict = parameter.restrict
        last = array.strides[0] * (array.shape[0] - 1) if array.ndim and array.size else 0
        self.size = last + array[:1].nbytes if array.ndim else array.nbytes
        self.strides = array.strides if last else None

    def view(self, raw: np.ndarray) -> np.ndarray:
        """The elements of the copy."""
        plain = raw[self.first : self.first + self.size].view(self.array.dtype)
        if self.strides is None:
            return plain.reshape(self.array.shape)
        return np.lib.stride_tricks.as_strided(plain, self.array.shape, self.strides)


class _Arena:
    """Copies of the arrays of a launch, between zones that nobody may touch."""

    def __init__(self, kernel: str, arguments: list[tuple[Parameter, np.ndarray]]):
        self.kernel, self.parts, self.part_of = kernel, [], {}
        end = _GUARD
        for parameter, array in arguments:
            part = self._same_memory(parameter, array)
            if part is None:
                part = _Part(parameter, array, end)
                self.parts.append(part)
                end = -(-(end + part.size + _GUARD) // _ALIGNMENT) * _ALIGNMENT
            self.part_of[parameter.name] = part
        self.raw = np.empty(end + _ALIGNMENT, np.uint8)
        self.raw = self.raw[-_address(self.raw) % _ALIGNMENT :][:end]
        self.fill()

    def _same_memory(self, parameter: Parameter, array: np.ndarray) -> _Part | None:
        """The part of an argument before this one that is the same memory."""
        for part in self.parts:
            if (part.writable or not parameter.const) and np.shares_memory(array, part.array):
                self._check_alias(part, parameter, array)
                part.writable = True
                return part
        return None

    def _check_alias(self, part: _Part, parameter: Parameter, array: np.ndarray) -> None:
        names = f"kernel {self.kernel}: {part.name!r} and {parameter.name!r}"
        whole = part.array.flags.c_contiguous and array.flags.c_contiguous and part.array.nbytes == array.nbytes
        if _address(part.array) != _address(array) or not (whole or part.array.strides == array.strides):
            raise ValueError(f"{names} overlap but are not the same memory; pass a copy of one")
        if part.restrict or parameter.restrict:
            raise ValueError(f"{names} are the same memory, but __restrict__ says that they are not; pass a copy")

    def fill(self) -> None:
        """Bring in the values, between guards that are NaN as floats and large as integers."""
        self.raw.view(np.uint32)[:] = _PATTERN
        for part in self.parts:
            part.view(self.raw)[...] = part.array

    def pointer(self, name: str) -> int:
        return _address(self.raw) + self.part_of[name].first

    def describe(self, launch: _Launch) -> None:
        rows = [_Array(repr(p.name).encode(), p.first, p.size, p.writable) for p in self.parts]
        launch.n_arrays, launch.arrays = len(rows), (_Array * max(1, len(rows)))(*rows)
        launch.arena, launch.arena_size = _address(self.raw), self.raw.size

    def take_back(self) -> None:
        """Check the guards and the arrays that were not to change; copy the others back."""
        blank = np.full(self.raw.size // 4, _PATTERN).view(np.uint8)
        values = [part.view(self.raw).copy() for part in self.parts]
        for part in self.parts:
            part.view(self.raw)[...] = part.view(blank)
        touched = np.flatnonzero(self.raw != blank)
        if touched.size:
            nearest = min(self.parts, key=lambda p: max(p.first - touched[0], touched[0] - p.first - p.size))
            raise IndexError(f"kernel {self.kernel} wrote outside its arrays, nearest to {nearest.name!r}")
        for part, value in zip(self.parts, values, strict=True):
            if part.writable:
                part.array[...] = value
            elif part.array.tobytes() != value.tobytes():
                raise ValueError(f"kernel {self.kernel} wrote into {part.name!r}, a pointer to const")


class Function:
    """A kernel that can be launched: ``kernel(grid, block, args)``."""

    def __init__(self, module: RawModule, name: str, parameters: list[Parameter], most_threads: int, entry: Any):
        self.name, self.parameters, self.most_threads = name, parameters, most_threads
        self._module, self._entry = module, entry

    def __call__(
        self, grid: tuple, block: tuple, args: Sequence[Any], *, shared_mem: int = 0, stream: Any = None
    ) -> None:
        grid, block = self._sizes("grid", grid, _MOST_BLOCKS), self._sizes("block", block, _MOST_THREADS)
        if np.prod(block) > self.most_threads:
            raise ValueError(f"kernel {self.name} takes at most {self.most_threads} threads per block, got {block}")
        if shared_mem:
            raise ValueError(
                f"kernel {self.name}: dynamic shared memory does not run here, got shared_mem={shared_mem}"
            )
        if not isinstance(args, (tuple, list)):
            raise TypeError(f"kernel {self.name} takes its arguments as a tuple, got {type(args).__name__}")
        if len(args) != len(self.parameters):
            names = ", ".join(p.name for p in self.parameters)
            raise TypeError(f"kernel {self.name} takes {len(self.parameters)} arguments ({names}), got {len(args)}")
        self._module._before(self.name, args, stream)
        values = []
        for parameter, given in zip(self.parameters, args, strict=True):
            label = f"{parameter.name!r} of kernel {self.name}"
            values.append((self._array if parameter.pointer else self._scalar)(parameter, given, label))
        with _lock:
            self._launch(grid, block, values)
            launches[self.name] += 1

    def _sizes(self, what: str, sizes: tuple, most: tuple[int, ...]) -> tuple[int, ...]:
        if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
            raise TypeError(f"kernel {self.name}: {what} must be a tuple of one to three integers, got {sizes!r}")
        full = tuple(int(s) if isinstance(s, (int, np.integer)) else -1 for s in sizes) + (1,) * (3 - len(sizes))
        if not all(1 <= s <= m for s, m in zip(full, most)):
            raise ValueError(f"kernel {self.name}: {what} must be integers from 1 to {most}, got {sizes}")
        return full

    def _scalar(self, parameter: Parameter, given: Any, label: str) -> np.generic:
        if not isinstance(given, np.generic) or given.dtype != parameter.dtype:
            raise TypeError(f"{label} must be a NumPy {parameter.dtype} scalar, got {_kind(given)}")
        return given

    def _array(self, parameter: Parameter, given: Any, label: str) -> Any:
        if type(given) in (int, np.intp, np.uintp) and given == 0:
            return np.uintp(0)  # a null pointer
        array = self._module._host(given, label)
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{label} must be an array of {parameter.dtype} (or np.uintp(0), the null pointer), got {_kind(given)}"
            )
        if array.dtype != parameter.dtype:
            raise TypeError(f"{label} must be an array of {parameter.dtype}, got {array.dtype}")
        if not _laid_out(array):
            raise ValueError(
                f"{label} must be C-contiguous, but for gaps between its planes along the first axis, got shape "
                f"{array.shape} with strides {array.strides}"
            )
        if not parameter.const and not array.flags.writeable:
            raise ValueError(f"{label} is no pointer to const but the array is read-only")
        return array

    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], values: list[Any]) -> None:
        arguments = list(zip(self.parameters, values, strict=True))
        arena = _Arena(self.name, [(p, v) for p, v in arguments if isinstance(v, np.ndarray)])
        cells = [np.array([np.uintp(arena.pointer(p.name)) if isinstance(v, np.ndarray) else v]) for p, v in arguments]
        pointers = (ctypes.c_void_p * max(1, len(cells)))(*map(_address, cells))
        launch = _Launch(grid, block, seconds=SECONDS)
        arena.describe(launch)
        if _schedule["seed"] is not None:
            _schedule["count"] += 1
            launch.mode, launch.seed = SHUFFLED, hash((_schedule["seed"], _schedule["count"])) % 2**64
        elif self._module.needs_fibers(self.name):
            launch.mode = ORDERED
        outcome, message = self._enter(launch, pointers)
        if outcome == NEEDS_FIBERS:
            self._module.needs_fibers(self.name, True)
            launch.mode = ORDERED
            arena.fill()
            outcome, message = self._enter(launch, pointers)
        if outcome != FINE:
            raise RuntimeError(f"kernel {self.name}: {message}{self._module.line(message)}")
        arena.take_back()

    def _enter(self, launch: _Launch, pointers: Any) -> tuple[int, str]:
        message = ctypes.create_string_buffer(1024)
        _watch.start(self.name)
        try:
            return self._entry(ctypes.byref(launch), pointers, message, len(message)), message.value.decode()
        finally:
            _watch.stop()


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    kind = type(value).__name__
    return f"{kind} of {dtype}" if dtype is not None and not isinstance(value, np.generic) else f"{kind} ({value!r})"


class RawModule:
    """
    Kernels from the text of a .cu file, as `cupy.RawModule`.

    Parameters
    ----------
    code : str
        The text; kernels are declared ``extern "C" __global__ void name(...)``.
    options : tuple of str
        As for NVRTC; macros (``-Dname=value``) are passed on, the others do not matter to the CPU.
    """

    def __init__(self, *, code: str, options: tuple[str, ...] = (), **ignored: Any):
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple of str, got {type(options).__name__}")
        self.code, self.options = code, options
        self._with_barriers: set[str] = set()

    def get_function(self, name: str) -> Function:
        """Kernel `name`; KeyError when the text has none of that name."""
        library, kernels = _built(self.code, self.options)
        if name not in kernels:
            raise KeyError(f"no kernel {name!r} in this module; it has {', '.join(kernels)}")
        entry = getattr(library, f"launch_{name}")
        entry.restype = ctypes.c_int
        entry.argtypes = [ctypes.POINTER(_Launch), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        return Function(self, name, *kernels[name], entry)

    def needs_fibers(self, name: str, found: bool = False) -> bool:
        """Whether a launch of this kernel has met a barrier."""
        if found:
            self._with_barriers.add(name)
        return name in self._with_barriers

    def _host(self, given: Any, label: str) -> Any:
        """NumPy array behind an argument; the stand-in for CuPy has its own arrays."""
        return getattr(given, "_host", given)

    def _before(self, name: str, args: Sequence[Any], stream: Any) -> None:
        """Called with what every launch is given."""

    def line(self, message: str) -> str:
        """The line of the source that a message of host_cuda.h speaks of."""
        found = re.search(r"\bline (\d+)", message)
        lines = self.code.splitlines()
        return f"\n    {lines[int(found[1]) - 1].strip()}" if found and int(found[1]) <= len(lines) else ""
