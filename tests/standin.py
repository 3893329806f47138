"""
A strict stand-in for CuPy, for machines without a GPU.

`installed()` puts modules named cupy and cupyx into `sys.modules` whose arrays wrap
NumPy arrays and refuse what CuPy's arrays refuse: silent conversion to NumPy, being
mixed with NumPy arrays, names that CuPy does not have. Every read of a device value
by the host is counted in `standin.host_reads`. The CUDA twins of the primitives are
replaced by the NumPy ones, so what is tested is everything around them.
"""

from __future__ import annotations

import contextlib
import sys
import types

import numpy as np
import scipy.fft
import scipy.ndimage

host_reads = 0

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
MISSING_METHODS = frozenset("ctypes getfield resize setfield setflags to_device data byteswap newbyteorder".split())
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
_DEVICE_SCALARS = {"count_nonzero", "allclose", "array_equal", "array_equiv"}  # NumPy gives int or bool, CuPy arrays


def _count_read():
    global host_reads
    host_reads += 1


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
        with np.errstate(all="ignore"):
            result = _with_out(keywords.get("out"), lambda: numpy_function(*plain, **plain_keywords))
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
            with np.errstate(all="ignore"):
                return _with_out(keywords.get("out"), lambda: function(*plain, **plain_keywords))

        return call


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
        self._host = np.zeros(shape, dtype)

    @classmethod
    def _of(cls, host):
        new = cls.__new__(cls)
        new._host = host
        return new

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: _Flags(self._host.flags))
    device = property(lambda self: _Device(0))
    T = property(lambda self: _wrap(self._host.T))
    real = property(lambda self: _wrap(self._host.real))
    imag = property(lambda self: _wrap(self._host.imag))

    def get(self, *args, **keywords):
        _count_read()
        return self._host.copy()

    def item(self, *args):
        _count_read()
        return self._host.item(*args)

    def tolist(self):
        _count_read()
        return self._host.tolist()

    def set(self, array, stream=None):
        self._host[...] = array

    def __float__(self):
        _count_read()
        return float(self._host)

    def __int__(self):
        _count_read()
        return int(self._host)

    def __complex__(self):
        _count_read()
        return complex(self._host)

    def __bool__(self):
        _count_read()
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
        key = self._key(key)
        value = self._host[key]
        if isinstance(value, np.generic) and not any(k is Ellipsis for k in key):
            value = self._host[(*key, Ellipsis)]  # a view, as in CuPy
        return _wrap(value)

    def __setitem__(self, key, value):
        self._host[self._key(key)] = _unwrap(value)

    def __getattr__(self, name):
        if name.startswith("__") or name in MISSING_METHODS:
            raise AttributeError(f"CuPy's arrays have no attribute {name!r}")
        attribute = getattr(object.__getattribute__(self, "_host"), name)
        if not callable(attribute):
            return _wrap(attribute)

        def call(*args, **keywords):
            _check_keywords(name, keywords)
            plain, plain_keywords = _unwrap(args), _unwrap(keywords)
            with np.errstate(all="ignore"):
                return _with_out(keywords.get("out"), lambda: attribute(*plain, **plain_keywords))

        return call

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
    """The one device."""

    def __init__(self, number=0):
        self.id = 0 if number is None else int(number)
        self.compute_capability = "90"
        self.mem_info = (1 << 33, 1 << 34)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def use(self):
        return self

    def synchronize(self):
        return None

    def __eq__(self, other):
        return isinstance(other, _Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __int__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


class _Stream(_Device):
    """A queue of work that is always done."""

    def __init__(self, *args, **keywords):
        super().__init__(0)
        self.ptr = 0


class _Pool:
    """A memory pool that never holds anything."""

    def free_all_blocks(self):
        return None

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return 0

    def get_limit(self):
        return 0


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
        if isinstance(value, np.ndarray):
            plain = plain.copy()  # device memory is never the host's
        return _wrap(np.asarray(function(plain, dtype, *args, **keywords)))

    return create


def asnumpy(value, *args, **keywords):
    """Host copy of a device array; a NumPy array as it is."""
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def _get_array_module(*arrays):
    return sys.modules["cupy"] if any(isinstance(a, ndarray) for a in arrays) else np


def _lexsort(keys):
    if not isinstance(keys, ndarray):
        raise TypeError("lexsort takes one device array of keys")
    return _wrap(np.lexsort(keys._host))


def _modules():
    """The fake modules by name."""
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        memGetInfo=lambda: (1 << 33, 1 << 34),
        getDeviceProperties=lambda number: {"name": b"stand-in", "multiProcessorCount": 1, "totalGlobalMem": 1 << 34},
        runtimeGetVersion=lambda: 12000,
        driverGetVersion=lambda: 12000,
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
    )
    cuda = types.ModuleType("cupy.cuda")
    cuda.__dict__.update(
        is_available=lambda: True,
        runtime=runtime,
        Device=_Device,
        Stream=_Stream,
        get_current_stream=_Stream,
        memory=types.SimpleNamespace(OutOfMemoryError=MemoryError),
    )
    _Stream.null = _Stream()
    fft = _Wrapped("cupy.fft", np.fft, frozenset())
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
        is_available=lambda: True,
        get_array_module=_get_array_module,
        get_default_memory_pool=_Pool,
        get_default_pinned_memory_pool=_Pool,
        bool_=np.bool_,
        newaxis=None,
        __version__="14.0.0",
        **{name: _creator(name) for name in _CREATE},
    )
    cupyx = types.ModuleType("cupyx")
    cupyx.scipy = types.ModuleType("cupyx.scipy")
    cupyx.scipy.ndimage = _Wrapped("cupyx.scipy.ndimage", scipy.ndimage, MISSING_NDIMAGE)
    cupyx.scipy.fft = _Wrapped("cupyx.scipy.fft", scipy.fft, MISSING_FFT)
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


@contextlib.contextmanager
def installed():
    """Context in which `import cupy` gives the stand-in; gives the fake cupy and starts `host_reads` at zero."""
    global host_reads
    fakes = _modules()
    ours = [n for n in sys.modules if n.split(".")[0] in ("cupy", "cupyx", "cupy_backends")]
    before = {name: sys.modules.pop(name) for name in ours if name in sys.modules}
    sys.modules.update(fakes)
    host_reads = 0
    try:
        yield fakes["cupy"]
    finally:
        for name in fakes:
            sys.modules.pop(name, None)
        sys.modules.update(before)
