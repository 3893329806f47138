"""
A strict stand-in for CuPy, for machines without a GPU.

`installed()` puts modules named cupy and cupyx into `sys.modules` whose arrays wrap
NumPy arrays and refuse what CuPy's arrays refuse: silent conversion to NumPy, being
mixed with NumPy arrays or with arrays of another device, names that CuPy does not have.
CUDA kernels run as well, on the CPU (`hostcuda`). New memory holds NaN or large numbers.

Four counters tell what a run would cost on a GPU, a crude model in which each call is one launch:
`host_reads` (of device values by the host), `hidden_waits` (calls that wait for the device to learn a size),
`launches`, and `bytes_moved` (arrays given to and made by these launches).

Copies from pinned memory to a stream are done late: when the stream, or an event recorded after them, is waited for,
or when the stream is worked on. A missing wait therefore shows as wrong values.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.util
import os
import sys
import tempfile
import threading
import time
import types
import warnings
import weakref
from typing import ClassVar

import hostcuda
import numpy as np
import scipy.fft
import scipy.ndimage

host_reads = 0
hidden_waits = 0
launches = 0
bytes_moved = 0
_on_device = False
device_count = 1

# Names that NumPy has and CuPy 14 lacks, from comparing the two packages.
MISSING = frozenset(
    "False_ ScalarType True_ asmatrix block bmat busday_count busday_offset busdaycalendar bytes_ char character "
    "clongdouble complex256 core ctypeslib datetime64 datetime_as_string datetime_data dtypes einsum_path emath "
    "errstate f2py flexible float128 frompyfunc fromregex geomspace get_include getbufsize geterr geterrcall "
    "histogram_bin_edges info insert is_busday isnat little_endian longdouble ma matrix matvec memmap nanpercentile "
    "nanquantile ndenumerate nditer nested_iters object_ polyder polydiv polyint rec recarray record sctypeDict "
    "setbufsize seterr seterrcall show_runtime spacing str_ strings test timedelta64 typecodes unstack vecdot vecmat "
    "void".split()
)
MISSING_METHODS = frozenset("ctypes getfield resize setfield setflags to_device byteswap newbyteorder".split())
MISSING_UFUNC = frozenset("identity ntypes signature resolve_dtypes".split())
MISSING_NDIMAGE = frozenset(
    "distance_transform_bf distance_transform_cdt geometric_transform vectorized_filter watershed_ift".split()
)
MISSING_FFT = frozenset("fhtoffset get_workers set_workers prev_fast_len register_backend set_backend".split())
MISSING_LINALG = frozenset("diagonal matrix_norm multi_dot outer svdvals tensordot trace vecdot vector_norm".split())

# Keywords that NumPy takes and CuPy does not.
_REFUSED_KEYWORDS = {"initial", "like", "subok", "correction", "device", "workers", "where"}
_REFUSED_HERE = {
    "count_nonzero": {"keepdims"},
    "percentile": {"weights"},
    "quantile": {"weights"},
    "clip": {"min", "max"},
}
_HOST_KEYWORDS = {"axis", "axes", "minlength", "shape", "num", "size", "dtype", "ndim", "n", "s", "pad_width"}
# Functions that take host data first: sizes, lists of arrays, values to move to the device.
_CREATE = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
_SIZED = {"zeros", "ones", "empty", "full", "arange", "linspace", "eye", "identity", "indices", "tri", "logspace"}
_LISTS = {
    "concatenate", "stack", "vstack", "hstack", "dstack", "column_stack", "broadcast_arrays", "meshgrid", "ix_",
    "broadcast_shapes", "unravel_index", "ravel_multi_index", "result_type", "promote_types", "can_cast", "dtype",
    "ndim", "shape", "isscalar", "finfo", "iinfo", "iscomplexobj", "isrealobj", "einsum", "choose", "select",
    "min_scalar_type", "broadcast_to", "diag_indices", "tril_indices", "triu_indices", "fftfreq", "rfftfreq",
    "next_fast_len",
}  # fmt: skip
# Functions that launch nothing, and those that read a size back from the device.
_FREE = {
    "empty", "empty_like", "ndim", "shape", "size", "result_type", "promote_types", "can_cast", "dtype", "isscalar",
    "finfo", "iinfo", "min_scalar_type", "broadcast_shapes", "iscomplexobj", "isrealobj", "may_share_memory",
    "shares_memory", "next_fast_len",
}  # fmt: skip
_WAITING = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "compress", "extract", "label"}
_DEVICE_SCALARS = {"count_nonzero", "allclose", "array_equal", "array_equiv"}  # NumPy gives int or bool, CuPy arrays


_counting = threading.Lock()
_thread = threading.local()  # the device and the stream that are current, per thread as in CuPy


def _add(**counts):
    with _counting:
        for name, count in counts.items():
            globals()[name] += count


def _count_read():
    _add(host_reads=1)


def _current_device():
    return getattr(_thread, "device", 0)


def _current_stream():
    return getattr(_thread, "stream", None) or _Stream.null


def _arrays_in(value):
    """Device arrays inside lists, tuples and dicts."""
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _arrays_in(part)


def _start_work(arrays, stream=None):
    """Refuse arrays of another device than the current one; let the work in the stream go first."""
    for array in arrays:
        if array._device != _current_device():
            raise ValueError(
                f"Array device must be same as the current device: array device = {array._device} "
                f"while current = {_current_device()}"
            )
    (stream or _current_stream())._catch_up()


def _operate(name, operands, call, out=None):
    """Result of `call`, on device arrays; counted unless it is nothing but a view."""
    operands = list(_arrays_in(operands))
    _start_work(operands)
    with np.errstate(all="ignore"):
        result = _with_out(out, call)
    results = list(_arrays_in(result))
    views = results and all(any(np.may_share_memory(r._host, o._host) for o in operands) for r in results)
    limit = _pools["device"].get_limit()
    if limit and not views and any(r.nbytes > limit for r in results):
        raise _OutOfMemoryError(f"Out of memory in {name} (limit set to: {limit:,} bytes)")
    if name not in _FREE and (out is not None or not views):
        _add(launches=1, bytes_moved=sum(a.nbytes for a in operands + results), hidden_waits=name in _WAITING)
    return result


def _scribble(host):
    """Put in what nobody should read: new memory holds anything."""
    if host.dtype.kind in "fc":
        host[...] = np.nan
    elif host.dtype.kind in "iu":
        host[...] = np.iinfo(host.dtype).max // 2
    elif host.dtype.kind == "b":
        host[...] = True
    return host


def _unwrap(value):
    """NumPy arrays for device arrays, inside lists, tuples and dicts too; TypeError for NumPy arrays."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError(f"Unsupported type {type(value)}: a NumPy array among CuPy arrays")
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_unwrap(v) for v in value)
    if isinstance(value, dict):
        return {k: _unwrap(v) for k, v in value.items()}
    return value


def _wrap(value):
    """Device arrays for NumPy arrays and scalars, inside tuples and lists too."""
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray._of(np.asarray(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_wrap(v) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_wrap(v) for v in value)
    return value


def _host_only(name, values):
    for value in values:
        parts = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(part, ndarray) for part in parts):
            raise TypeError(f"{name} takes a host value here, got a device array; int() or float() reads it")


def _check_keywords(name, keywords):
    refused = _REFUSED_KEYWORDS | _REFUSED_HERE.get(name, set())
    for key in keywords:
        if key in refused and (name, key) != ("copyto", "where"):
            raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
    _host_only(name, [v for k, v in keywords.items() if k in _HOST_KEYWORDS])


def _with_out(out, call):
    """Call with unwrapped `out`; give the very device array back, as CuPy does."""
    if out is None:
        return _wrap(call())
    single = out[0] if isinstance(out, tuple) and len(out) == 1 else out
    call()
    return single


def _function(name, numpy_function):
    """A NumPy function as CuPy would offer it."""

    def call(*args, **keywords):
        _check_keywords(name, keywords)
        if name in _SIZED:
            _host_only(name, args[:1])
        elif name not in _LISTS and args and not isinstance(args[0], ndarray):
            if isinstance(args[0], (list, tuple)):
                raise TypeError(f"{name} takes a device array, got {type(args[0]).__name__}")
        if name == "repeat" and isinstance(args[1] if len(args) > 1 else keywords.get("repeats"), ndarray):
            raise TypeError("repeat takes int, list or tuple as repeats")
        plain, plain_keywords = _unwrap(args), _unwrap(keywords)

        def work():
            made = numpy_function(*plain, **plain_keywords)
            return _scribble(made) if name in ("empty", "empty_like") else made

        result = _operate(name, (args, keywords), work, keywords.get("out"))
        return _wrap(np.asarray(result)) if name in _DEVICE_SCALARS and not isinstance(result, ndarray) else result

    call.__name__ = name
    return call


class ufunc:
    """A NumPy ufunc on device arrays."""

    def __init__(self, numpy_ufunc):
        self._ufunc = numpy_ufunc
        self.__name__ = numpy_ufunc.__name__

    def __getattr__(self, name):
        if name in MISSING_UFUNC or name.startswith("__"):
            raise AttributeError(f"CuPy's ufuncs have no {name!r}")
        attribute = getattr(self._ufunc, name)
        return self._method(attribute) if callable(attribute) else attribute

    def __call__(self, *args, **keywords):
        return self._method(self._ufunc)(*args, **keywords)

    def _method(self, function):
        def call(*args, **keywords):
            _check_keywords(self.__name__, keywords)
            if any(isinstance(a, (list, tuple)) for a in args[:2]) and function is self._ufunc:
                raise TypeError(f"Unsupported type {list} for {self.__name__}")
            plain, plain_keywords = _unwrap(args), _unwrap(keywords)
            work = lambda: function(*plain, **plain_keywords)  # noqa: E731
            return _operate(self.__name__, (args, keywords), work, keywords.get("out"))

        return call


_VIEWS = {"reshape", "ravel", "view", "transpose", "swapaxes", "squeeze", "diagonal"}


class _Flags:
    """What CuPy tells about memory layout."""

    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous
        self.owndata = flags.owndata


class _ArrayType(type):
    def __instancecheck__(cls, instance):
        return type(instance) is cls


class ndarray(metaclass=_ArrayType):
    """Array that only `get`, `item`, `tolist`, `float`, `int`, `bool` and `complex` bring to the host."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float):
        _host_only("ndarray", [shape])
        self._host, self._device = _scribble(np.empty(shape, dtype)), _current_device()

    @classmethod
    def _of(cls, host, device=None):
        new = cls.__new__(cls)
        new._host, new._device = host, _current_device() if device is None else device
        return new

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: _Flags(self._host.flags))
    device = property(lambda self: _Device(self._device))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.__array_interface__["data"][0]))
    T = property(lambda self: ndarray._of(self._host.T, self._device))
    real = property(lambda self: ndarray._of(self._host.real, self._device))
    imag = property(lambda self: ndarray._of(self._host.imag, self._device))

    def get(self, stream=None, order="C", out=None, blocking=True):
        (stream or _current_stream())._catch_up()
        if blocking:
            _count_read()
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ValueError(f"out must be a NumPy array of shape {self.shape} and dtype {self.dtype}, got {out!r:.80}")
        if blocking:
            out[...] = self._host
        else:
            (stream or _current_stream())._later(lambda: np.copyto(out, self._host))
        return out

    def set(self, array, stream=None):
        if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (self.shape, self.dtype):
            raise ValueError(f"set takes a NumPy array of shape {self.shape} and dtype {self.dtype}, got {array!r:.80}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        if stream is not None and _is_pinned(array):
            stream._later(lambda: np.copyto(self._host, array))
        else:
            (stream or _current_stream())._catch_up()
            self._host[...] = array
        _add(launches=1, bytes_moved=self.nbytes)

    def _read(self):
        _current_stream()._catch_up()
        _count_read()

    def item(self, *args):
        self._read()
        return self._host.item(*args)

    def tolist(self):
        self._read()
        return self._host.tolist()

    def __float__(self):
        self._read()
        return float(self._host)

    def __int__(self):
        self._read()
        return int(self._host)

    def __complex__(self):
        self._read()
        return complex(self._host)

    def __bool__(self):
        self._read()
        return bool(self._host)

    def __array__(self, *args, **keywords):
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_ufunc__(self, function, method, *inputs, **keywords):
        here = ufunc(function)
        return (here if method == "__call__" else getattr(here, method))(*inputs, **keywords)

    def __array_function__(self, function, kinds, args, keywords):
        return getattr(sys.modules["cupy"], function.__name__)(*args, **keywords)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self._host)))

    def __contains__(self, value):
        raise TypeError("CuPy arrays do not answer 'in'")

    @staticmethod
    def _key(key):
        parts = key if isinstance(key, tuple) else (key,)
        plain = []
        for part in parts:
            if isinstance(part, slice):
                _host_only("a slice", [part.start, part.stop, part.step])
            plain.append(part._host if isinstance(part, ndarray) else part)
        return tuple(plain)

    def __getitem__(self, key):
        parts, key = key, self._key(key)
        value = self._host[key]
        if isinstance(value, np.generic) and not any(k is Ellipsis for k in key):
            value = self._host[(*key, Ellipsis)]  # a view, as in CuPy
        if not np.may_share_memory(value, self._host) and value.size:
            _start_work([self, *_arrays_in(parts)])
            moved = 2 * value.nbytes + sum(a.nbytes for a in _arrays_in(parts))
            masked = any(getattr(k, "dtype", "") == np.dtype(bool) for k in key)
            _add(launches=1, bytes_moved=moved, hidden_waits=masked)
        return ndarray._of(np.asarray(value), self._device)

    def __setitem__(self, key, value):
        plain = _unwrap(value)
        arrays = [self, *_arrays_in(key), *_arrays_in(value)]
        _start_work(arrays)
        key = self._key(key)
        self._host[key] = plain
        moved = self._host[key].nbytes + sum(a.nbytes for a in arrays[1:])
        _add(launches=1, bytes_moved=moved)

    def __getattr__(self, name):
        if name.startswith("_") or name in MISSING_METHODS:
            raise AttributeError(f"CuPy's arrays have no attribute {name!r}")
        attribute = getattr(object.__getattribute__(self, "_host"), name)
        if not callable(attribute):
            return ndarray._of(np.asarray(attribute), self._device) if name in ("flat", "base") else _wrap(attribute)

        def call(*args, **keywords):
            _check_keywords(name, keywords)
            plain, plain_keywords = _unwrap(args), _unwrap(keywords)
            if name in _VIEWS:
                value = np.asarray(attribute(*plain, **plain_keywords))
                if np.may_share_memory(value, self._host) or not value.size:
                    return ndarray._of(value, self._device)
            work = lambda: attribute(*plain, **plain_keywords)  # noqa: E731
            if name == "copy":  # comes to the current device
                return self._copied(work)
            return _operate(name, (self, args, keywords), work, keywords.get("out"))

        return call

    def _copied(self, work):
        _current_stream()._catch_up()
        _add(launches=1, bytes_moved=2 * self.nbytes)
        return _wrap(work())

    def __repr__(self):
        return f"standin.{self._host!r}"

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()


def _add_operators():
    """Operators by way of the ufuncs, so that they refuse what the ufuncs refuse."""
    two = (
        "add sub:subtract mul:multiply truediv:true_divide floordiv:floor_divide mod:remainder pow:power "
        "and:bitwise_and or:bitwise_or xor:bitwise_xor lshift:left_shift rshift:right_shift matmul divmod"
    )
    for entry in two.split():
        short, _, full = entry.partition(":")
        function = getattr(np, full or short)

        def forward(self, other, function=function):
            return NotImplemented if isinstance(other, (list, tuple, str)) else ufunc(function)(self, other)

        def backward(self, other, function=function):
            return NotImplemented if isinstance(other, (list, tuple, str)) else ufunc(function)(other, self)

        def in_place(self, other, function=function):
            return ufunc(function)(self, other, out=self)

        setattr(ndarray, f"__{short}__", forward)
        setattr(ndarray, f"__r{short}__", backward)
        if short != "divmod" and short != "matmul":
            setattr(ndarray, f"__i{short}__", in_place)
    compare = "lt:less le:less_equal gt:greater ge:greater_equal eq:equal ne:not_equal"
    one = "neg:negative pos:positive abs:absolute invert:invert"
    for entry in f"{compare} {one}".split():
        short, _, full = entry.partition(":")
        setattr(ndarray, f"__{short}__", lambda self, *other, name=full: ufunc(getattr(np, name))(self, *other))


_add_operators()


class _Device:
    """A device; as a context, the current one of this thread."""

    def __init__(self, device=None):
        self.id = _current_device() if device is None else int(device)
        self.compute_capability = "90"
        self.mem_info = (1 << 33, 1 << 34)
        self._before = []

    def __enter__(self):
        self._before.append(_current_device())
        return self.use()

    def __exit__(self, *error):
        _thread.device = self._before.pop()

    def use(self):
        if not 0 <= self.id < device_count:
            raise _RuntimeError(f"cudaErrorInvalidDevice: invalid device ordinal {self.id} of {device_count}")
        _thread.device = self.id
        return self

    def synchronize(self):
        for stream in _Stream.all:
            stream._run()

    def __eq__(self, other):
        return isinstance(other, _Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __int__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


_one_at_a_time = threading.RLock()  # several threads may use the stand-in


class _Stream:
    """A queue of work: of copies from and to pinned memory, everything else is done at once."""

    all: ClassVar = weakref.WeakSet()

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.non_blocking, self.device_id = non_blocking, _current_device()
        self.ptr = 0 if null else id(self)
        self._waiting, self._n_done, self._before = [], 0, []
        with _one_at_a_time:
            _Stream.all.add(self)

    def _later(self, copy):
        with _one_at_a_time:
            self._waiting.append(copy)

    def _run(self, n_done=None):
        """Do what waits, or only the first so many that were ever put here."""
        with _one_at_a_time:
            while self._waiting and (n_done is None or self._n_done < n_done):
                self._waiting.pop(0)()
                self._n_done += 1

    def _catch_up(self):
        """What must be done before work that is put here now; the null stream waits for all that do not say no."""
        with _one_at_a_time:
            for stream in _Stream.all if self is _Stream.null else [self]:
                if stream is self or not stream.non_blocking:
                    stream._run()

    @property
    def done(self):
        return not self._waiting

    def __enter__(self):
        self._before.append(_current_stream())
        return self.use()

    def __exit__(self, *error):
        _thread.stream = self._before.pop()

    def use(self):
        _thread.stream = self
        return self

    def synchronize(self):
        self._run()

    def record(self, event=None):
        event = event or _Event()
        event.record(self)
        return event

    def wait_event(self, event):
        event.synchronize()


class _Event:
    """A mark in a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._stream, self._mark, self._time, self._timed = None, 0, 0.0, not disable_timing

    def record(self, stream=None):
        self._stream = stream or _current_stream()
        with _one_at_a_time:
            self._mark, self._time = self._stream._n_done + len(self._stream._waiting), time.perf_counter()

    @property
    def done(self):
        return self._stream is None or self._stream._n_done >= self._mark

    def synchronize(self):
        if self._stream is not None:
            self._stream._run(self._mark)


def _elapsed(start, end):
    """Milliseconds between two events."""
    if not (start._timed and end._timed) or start._stream is None or end._stream is None:
        raise _RuntimeError("cudaErrorInvalidResourceHandle: both events must be recorded, and with timing")
    if not (start.done and end.done):
        raise _RuntimeError("cudaErrorNotReady: device not ready; synchronize the event first")
    return 1000 * (end._time - start._time)


class _RuntimeError(RuntimeError):
    """What CUDA's runtime answers."""


class _OutOfMemoryError(MemoryError):
    """Too little device memory."""


class _Pinned(bytearray):
    """Page-locked memory; larger than asked for, as CuPy's."""

    all: ClassVar = weakref.WeakSet()
    __hash__ = object.__hash__

    def __init__(self, size):
        super().__init__(1 << max(0, int(size) - 1).bit_length())
        self.ptr = np.frombuffer(self, np.uint8).ctypes.data
        with _one_at_a_time:
            _Pinned.all.add(self)


def _is_pinned(array):
    with _one_at_a_time:
        return any(np.may_share_memory(array, np.frombuffer(memory, np.uint8)) for memory in _Pinned.all)


def _empty_pinned(shape, dtype=float, order="C"):
    n = int(np.prod(shape))
    return np.frombuffer(_Pinned(n * np.dtype(dtype).itemsize), dtype, n).reshape(shape, order=order)


class _Pool:
    """A memory pool that never holds anything, but may refuse a large array."""

    def __init__(self):
        self._limit = 0

    def free_all_blocks(self, stream=None):
        return None

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return 0

    def n_free_blocks(self):
        return 0

    def get_limit(self):
        return self._limit

    def set_limit(self, size=None, fraction=None):
        self._limit = int(fraction * (1 << 34)) if size is None else int(size)


class _PlanCache:
    """CuPy's cache of FFT plans, which the stand-in has no use for."""

    def __init__(self):
        self.size, self.memsize = 16, -1

    def set_size(self, size):
        self.size = size

    def set_memsize(self, memsize):
        self.memsize = memsize

    def get_size(self):
        return self.size

    def get_memsize(self):
        return self.memsize

    def get_curr_size(self):
        return 0

    def get_curr_memsize(self):
        return 0

    def clear(self):
        return None


_pools = {"device": _Pool(), "pinned": _Pool()}
_plans = {}
_Stream.null = _Stream(null=True)


class _NVRTCError(RuntimeError):
    """What the compiler has against a text."""


class _Program:
    """A text on its way through a compiler that leaves it as it is."""

    def __init__(self, text, name, headers, include_names):
        self.text = text

    def compile(self, options):
        if "#error" in self.text:
            raise _NVRTCError("NVRTC_ERROR_COMPILATION")
        arch = options[-1].removeprefix("-arch=")
        self.made = {arch[:2]: f"// {' '.join(options)}\n{self.text}"}


_nvrtc = types.SimpleNamespace(
    NVRTCError=_NVRTCError,
    getVersion=lambda: (0, 0),  # so that its "binaries" are nobody else's
    getSupportedArchs=lambda: [75, 80, 90, 120],
    createProgram=_Program,
    compileProgram=_Program.compile,
    getCUBIN=lambda program: program.made["sm"].encode(),
    getPTX=lambda program: program.made["co"],
    getProgramLog=lambda program: "kernel.cu(1): error",
    destroyProgram=lambda program: None,
)


class RawModule(hostcuda.RawModule):
    """CUDA kernels on the CPU; arguments are device arrays and NumPy scalars."""

    def __init__(self, *, code=None, path=None, **options):
        with contextlib.nullcontext() if path is None else open(path, encoding="utf-8") as stream:
            super().__init__(code=code if path is None else stream.read(), **options)

    def _host(self, given, label):
        if isinstance(given, np.ndarray):
            raise TypeError(f"{label} must be a device array, got a NumPy array")
        return super()._host(given, label)

    def _before(self, name, args, stream):
        arrays = list(_arrays_in(args))
        _start_work(arrays, stream)
        _add(launches=1, bytes_moved=sum(a.nbytes for a in arrays))


class _Wrapped(types.ModuleType):
    """A NumPy-like module on device arrays, less the names in `missing`."""

    def __init__(self, name, source, missing, **extra):
        super().__init__(name)
        self.__dict__.update(_source=source, _missing=missing, __path__=[], **extra)

    def __getattr__(self, name):
        if name.startswith("_") or name in self._missing or not hasattr(self._source, name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(self._source, name)
        if isinstance(value, types.ModuleType):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if isinstance(value, np.ufunc):
            return ufunc(value)
        if isinstance(value, type) or not callable(value):
            return value
        return _function(name, value)


def _lenient(value):
    """As `_unwrap`; NumPy arrays may pass, as the launchers copy small ones to the device."""
    if isinstance(value, ndarray):
        return value._host
    if type(value) in (list, tuple):
        return type(value)(_lenient(v) for v in value)
    return {k: _lenient(v) for k, v in value.items()} if isinstance(value, dict) else value


def _creator(name):
    function = getattr(np, name)

    def create(value, dtype=None, *args, **keywords):
        keywords.pop("blocking", None)
        plain = _lenient(value)
        _start_work(() if isinstance(value, ndarray) else _arrays_in(value))
        if isinstance(value, np.ndarray):
            plain = plain.copy()  # device memory is never the host's
        elif name == "ascontiguousarray" and value.flags.c_contiguous and dtype in (None, value.dtype):
            return value  # on whatever device
        elif isinstance(value, ndarray) and value._device != _current_device():
            return value.copy()
        made = _wrap(np.asarray(function(plain, dtype, *args, **keywords)))
        if not isinstance(value, ndarray) or not np.may_share_memory(made._host, value._host):
            _add(launches=1, bytes_moved=made.nbytes + (value.nbytes if isinstance(value, ndarray) else 0))
        return made

    return create


def asnumpy(value, *args, **keywords):
    """Host copy of a device array; a NumPy array as it is."""
    return value.get(*args, **keywords) if isinstance(value, ndarray) else np.asarray(value)


def _get_array_module(*arrays):
    return sys.modules["cupy"] if any(isinstance(a, ndarray) for a in arrays) else np


def _lexsort(keys):
    if not isinstance(keys, ndarray):
        raise TypeError("lexsort takes one device array of keys")
    return _wrap(np.lexsort(keys._host))


def _modules():
    """The fake modules by name."""
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: device_count,
        getDevice=_current_device,
        setDevice=lambda number: _Device(number).use() and None,
        deviceSynchronize=lambda: _Device().synchronize(),
        memGetInfo=lambda: (1 << 33, 1 << 34),
        getDeviceProperties=lambda number: {
            "name": b"stand-in",
            "major": 9,
            "minor": 0,
            "multiProcessorCount": 1,
            "totalGlobalMem": 1 << 34,
        },
        runtimeGetVersion=lambda: 12000,
        driverGetVersion=lambda: 12000,
        CUDARuntimeError=_RuntimeError,
    )
    cuda = types.ModuleType("cupy.cuda")
    cuda.__dict__.update(
        is_available=lambda: True,
        runtime=runtime,
        Device=_Device,
        Stream=_Stream,
        Event=_Event,
        get_current_stream=_current_stream,
        get_elapsed_time=_elapsed,
        alloc_pinned_memory=_Pinned,
        memory=types.SimpleNamespace(OutOfMemoryError=_OutOfMemoryError),
        nvrtc=_nvrtc,
    )
    fft = _Wrapped("cupy.fft", np.fft, frozenset())
    fft.config = types.SimpleNamespace(get_plan_cache=lambda: _plans.setdefault(_current_device(), _PlanCache()))
    linalg = _Wrapped("cupy.linalg", np.linalg, MISSING_LINALG, LinAlgError=np.linalg.LinAlgError)
    tricks = _Wrapped("cupy.lib.stride_tricks", np.lib.stride_tricks, {"broadcast_to", "broadcast_arrays"})
    lib = types.ModuleType("cupy.lib")
    lib.stride_tricks = tricks
    cupy = _Wrapped(
        "cupy",
        np,
        MISSING,
        ndarray=ndarray,
        ufunc=ufunc,
        cuda=cuda,
        fft=fft,
        linalg=linalg,
        lib=lib,
        asnumpy=asnumpy,
        lexsort=_lexsort,
        RawModule=RawModule,
        is_available=lambda: True,
        get_array_module=_get_array_module,
        get_default_memory_pool=lambda: _pools["device"],
        get_default_pinned_memory_pool=lambda: _pools["pinned"],
        bool_=np.bool_,
        newaxis=None,
        __version__="14.0.0",
        **{name: _creator(name) for name in _CREATE},
    )
    cupyx = types.ModuleType("cupyx")
    cupyx.scipy = types.ModuleType("cupyx.scipy")
    cupyx.scipy.ndimage = _Wrapped("cupyx.scipy.ndimage", scipy.ndimage, MISSING_NDIMAGE)
    cupyx.scipy.fft = _Wrapped("cupyx.scipy.fft", scipy.fft, MISSING_FFT)
    cupyx.empty_pinned = _empty_pinned
    cupyx.zeros_pinned = _empty_pinned  # a new bytearray holds zeros
    cupyx.scatter_add = lambda a, where, values: np.add.at(a._host, ndarray._key(where), _unwrap(values))
    for package in (cuda, lib, cupyx, cupyx.scipy):
        package.__path__ = []
    return {
        "cupy": cupy,
        "cupy.cuda": cuda,
        "cupy.fft": fft,
        "cupy.linalg": linalg,
        "cupy.lib": lib,
        "cupy.lib.stride_tricks": tricks,
        "cupyx": cupyx,
        "cupyx.scipy": cupyx.scipy,
        "cupyx.scipy.ndimage": cupyx.scipy.ndimage,
        "cupyx.scipy.fft": cupyx.scipy.fft,
    }


def _ours(name):
    """Whether a module is CuPy's, or bound to the CuPy that it found."""
    return name.split(".")[0] in ("cupy", "cupyx", "cupy_backends") or name.startswith("gpucoadd.kernels")


def _forget_kernels():
    """A package keeps its imported parts as attributes, whatever sys.modules says."""
    vars(sys.modules.get("gpucoadd", types.SimpleNamespace())).pop("kernels", None)


class _Uncounted(int):
    """What a counter says of a real device, where nothing is counted: whatever it is compared with."""

    __hash__ = int.__hash__

    def _yes(self, other):
        return True

    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _yes

    def __sub__(self, other):
        return self


def reset():
    """Set the counters to zero."""
    global host_reads, hidden_waits, launches, bytes_moved
    host_reads = hidden_waits = launches = bytes_moved = _Uncounted() if _on_device else 0


@functools.cache
def _real():
    """CuPy, if it is installed and has a device, else None."""
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a CuPy without a driver
        try:
            cupy = importlib.import_module("cupy")
            return cupy if cupy.cuda.is_available() else None
        except (ImportError, RuntimeError):
            return None


def expect_launches(expected):
    """Assert that kernels were launched so often, by name, since `hostcuda.reset()`; on a device nobody counts."""
    assert _on_device or hostcuda.launches == expected


def available():
    """Whether kernels can run, on a device or on the CPU."""
    return _real() is not None or hostcuda.available()


@contextlib.contextmanager
def device():
    """
    Context in which `import cupy` gives CuPy where it has a device, and the stand-in elsewhere.

    Tests of kernels run on either. What the counters say is compared on the stand-in alone.
    """
    global _on_device
    if _real() is None:
        with installed() as fake:
            yield fake
        return
    _on_device = True
    reset()
    try:
        yield _real()
    finally:
        _on_device = False
        reset()


@contextlib.contextmanager
def installed(devices=1):
    """Context in which `import cupy` gives the stand-in; gives the fake cupy and starts the counters at zero."""
    global device_count
    fakes = _modules()
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _ours(name)}
    _forget_kernels()
    sys.modules.update(fakes)
    reset()
    device_count = devices
    cache = os.environ.get("CUPY_CACHE_DIR")  # what is "compiled" here must not get into CuPy's own
    os.environ["CUPY_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"gpucoadd-standin-{getpass.getuser()}")
    try:
        yield fakes["cupy"]
    finally:
        os.environ.pop("CUPY_CACHE_DIR")
        os.environ.update({} if cache is None else {"CUPY_CACHE_DIR": cache})
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        _forget_kernels()
        sys.modules.update(before)
        device_count, _thread.device, _thread.stream = 1, 0, None
        _pools.update(device=_Pool(), pinned=_Pool())
