"""CUDA on the CPU: small kernels run right, and what is wrong with others is found."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import hostcuda
import numpy as np
import pytest
from numpy.testing import assert_array_equal

pytestmark = pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)

CODE = r"""
typedef long long int64;
typedef unsigned int word;

extern "C" __global__ void add(const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ out,
                               int64 n) {
    int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i] = x[i] + y[i];
}

extern "C" __global__ void numbers(int* out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

extern "C" __global__ void total(const int* x, int* out, int n) {
    __shared__ int part[128];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    for (int step = blockDim.x / 2; step > 0; step >>= 1) {
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(out, part[0]);
}

extern "C" __global__ void pack(const float* x, word* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    word bits = __ballot_sync(0xffffffffu, i < n && x[i] > 0);
    if (threadIdx.x % 32 == 0 && i < n) out[i / 32] = bits;
}

extern "C" __global__ void exchanges(const float* x, float* out, word* votes) {
    int i = threadIdx.x;
    float v = x[i];
    out[i] = __shfl_sync(0xffffffffu, v, 5);
    out[64 + i] = __shfl_up_sync(0xffffffffu, v, 3);
    out[128 + i] = __shfl_down_sync(0xffffffffu, v, 3);
    out[192 + i] = __shfl_xor_sync(0xffffffffu, v, 9);
    out[256 + i] = __shfl_down_sync(0xffffffffu, v, 3, 8);
    votes[i] = __any_sync(0xffffffffu, v > 40) + 2 * __all_sync(0xffffffffu, v > 31);
    votes[64 + i] = __match_any_sync(0xffffffffu, (int)v % 3);
    votes[128 + i] = __syncthreads_count(v > 40);
    __syncwarp();
    double wide = __shfl_xor_sync(0xffffffffu, (double)v + 1e-9, 1);
    out[320 + i] = (float)((wide - 1e-9) * 2);
    out[384 + i] = __shfl_up_sync(0xffffffffu, v, 3, 8);
    out[448 + i] = __shfl_xor_sync(0xffffffffu, v, 16, 16);
    out[512 + i] = __shfl_sync(0xffffffffu, v, 5, 4);
}

extern "C" __global__ void order(int* count, int* turn) {
    turn[atomicAdd(count, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}

extern "C" __global__ void add_before_barrier(int* out) {
    out[threadIdx.x] += 1;
    __syncthreads();
}

extern "C" __global__ void bits(word* out) {
    out[0] = __popc(0xf0f1u);
    out[1] = __ffs(8) + 100 * __ffs(0);
    out[2] = __clz(1) + 100 * __clz(0);
    out[3] = __brev(3u);
    out[4] = __float_as_uint(1.0f);
    out[5] = __uint_as_float(0x40490fdbu) == 3.14159274f;
    out[6] = __popcll(1ull << 40 | 1) + 100 * (__double_as_longlong(1.0) == 0x3ff0000000000000ll);
    out[7] = min(3, 2) + 10 * max(3u, 2u) + (word)(100 * fminf(2.5f, 1.0f)) + (word)(1000 * max(1.0, 2.0));
    out[8] = __funnelshift_l(0x80000000u, 1u, 1) + 100 * __funnelshift_r(2u, 1u, 1);
}

extern "C" __global__ void atomics(int* ints, word* words, unsigned long long* longs) {
    int i = threadIdx.x;
    atomicMin(&ints[0], -i);
    atomicMax(&ints[1], i);
    atomicAdd(&ints[2], -1);
    atomicSub(&ints[3], 2);
    atomicOr(&words[0], 1u << (i % 32));
    atomicAnd(&words[1], ~(1u << (i % 32)));
    atomicXor(&words[2], 1u << (i % 32));
    if (atomicCAS(&words[3], 7u, 8u) == 7u) atomicExch(&words[4], 5u);
    atomicAdd(&longs[0], 1ull << 33);
    atomicMax(&longs[1], (unsigned long long)i << 40);
}

extern "C" __global__ void unset(int* out, int i) {
    __shared__ int part[4];
    if (i >= 0) part[i] = 5;
    __syncthreads();
    out[blockIdx.x] = part[2];
}

// Races: the ordered schedule gets all of these right.
extern "C" __global__ void count_without_atomic(int* count) { count[0] = count[0] + 1; }

extern "C" __global__ void count_with_atomic(int* count) { atomicAdd(count, 1); }

extern "C" __global__ void reverse_without_barrier(const int* x, int* out) {
    __shared__ int part[64];
    part[63 - threadIdx.x] = x[threadIdx.x];
    if (RARELY) __syncthreads();
    out[threadIdx.x] = threadIdx.x < 32 ? 0 : part[threadIdx.x];
}

__device__ inline int root(const int* parents, int i) {
    while (parents[i] != i) i = parents[i];
    return i;
}

extern "C" __global__ void unite(const int* a, const int* b, int* parents, int n, bool retry) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int first = a[i], second = b[i];
    do {
        first = root(parents, first);
        second = root(parents, second);
        if (first == second) return;
        int low = min(first, second), high = max(first, second);
        int before = atomicMin(&parents[high], low);
        if (before == high) return;
        first = low;
        second = before;
    } while (retry);
}

// Wrong on purpose.
extern "C" __global__ void one_too_many(const float* x, float* out, int n) {
    int i = threadIdx.x;
    if (i <= n) out[i] = 2 * x[i];
}
extern "C" __global__ void write_at(float* out, int i) { out[i] = 1; }
extern "C" __global__ void read_wide(const float* x, double* out) { out[0] = *(const double*)(x + 1); }
extern "C" __global__ void write_const(const float* x) { ((float*)x)[0] = 1; }
__attribute__((noinline, no_sanitize("thread"))) void unseen(float* x, int i) { x[i] = 1; }
extern "C" __global__ void write_unseen(const float* x, float* out, int i, int j) {
    unseen((float*)x, i);
    unseen(out, j);
}
extern "C" __global__ void early_return(int* out, int n) {
    if ((int)threadIdx.x >= n) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void early_return_of_the_first(int* out, int n) {
    if ((int)threadIdx.x < n) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void two_barriers(int* out) {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void lanes_missing(word* out, int n) {
    if ((int)threadIdx.x >= n) return;
    out[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
}
extern "C" __global__ void ballot(word* out, word mask) { out[threadIdx.x] = __ballot_sync(mask, 1); }
extern "C" __global__ void shuffle_from(int* out, word mask, int from) {
    if (mask >> threadIdx.x & 1) out[threadIdx.x] = __shfl_sync(mask, (int)threadIdx.x, from);
}
extern "C" __global__ void forever(int* out) { while (atomicAdd(out, 0) == 0) {} }
extern "C" __global__ void deep(int* out) {
    volatile char much[66000];
    for (int i = 0; i < 66000; i += 64) much[i] = 1;
    out[0] = much[64];
    __syncthreads();
}
extern "C" __global__ void __launch_bounds__(64) small_blocks(int* out) { out[threadIdx.x] = 1; }
extern "C" __global__ void nothing(void) {}
extern "C" __global__ void nullable(const float* x, int* out) { out[0] = x == 0; }
extern "C" __global__ void in_place(const float* x, float* out) { out[threadIdx.x] = 2 * x[threadIdx.x]; }
#ifdef EXTRA
extern "C" __global__ void extra(EXTRA* out) { out[0] = 3; }
#endif
"""
OPTIONS = ("-std=c++17", "-fmad=false", "-DRARELY=threadIdx.x > 1000")


@pytest.fixture
def kernel():
    return hostcuda.RawModule(code=CODE, options=OPTIONS).get_function


@pytest.fixture(params=["in order", *range(5)])
def schedule(request):
    """The ordered schedule and some random ones."""
    if request.param == "in order":
        yield None
    else:
        with hostcuda.shuffled(request.param):
            yield request.param


def test_add(kernel, schedule):
    x = np.arange(1000, dtype=np.float32)
    out = np.zeros(1000, np.float32)
    kernel("add")((4,), (256,), (x, x[::-1].copy(), out, np.int64(1000)))
    assert_array_equal(out, np.full(1000, 999))


def test_threads_know_where_they_are(kernel, schedule):
    out = np.zeros((12, 30), np.int32)
    kernel("numbers")((2, 3, 2), (5, 2, 3), (out,))
    assert_array_equal(out, 1000 * np.arange(12)[:, None] + np.arange(30))


def test_barriers_and_shared_memory(kernel, schedule):
    x = np.random.default_rng(1).integers(-100, 100, 1000, dtype=np.int32)
    out = np.array([5], np.int32)
    kernel("total")((8,), (128,), (x, out, np.int32(1000)))
    assert out[0] == x.sum() + 5


def test_ballot(kernel, schedule):
    x = np.random.default_rng(2).normal(size=200).astype(np.float32)
    out = np.zeros(7, np.uint32)
    kernel("pack")((4,), (64,), (x, out, np.int32(200)))
    assert_array_equal(np.unpackbits(out.view(np.uint8), bitorder="little")[:200], x > 0)


def test_shuffles_and_votes(kernel, schedule):
    x = np.arange(64, dtype=np.float32)
    out, votes = np.zeros((9, 64), np.float32), np.zeros((3, 64), np.uint32)
    kernel("exchanges")((1,), (64,), (x, out, votes))
    lane, base = np.arange(64) % 32, np.arange(64) // 32 * 32
    expected = [
        base + 5,
        base + np.where(lane >= 3, lane - 3, lane),
        base + np.where(lane < 29, lane + 3, lane),
        base + (lane ^ 9),
        base + np.where(lane % 8 < 5, lane + 3, lane),
        2 * (base + (lane ^ 1)),
        base + np.where(lane % 8 >= 3, lane - 3, lane),
        base + np.where(lane < 16, lane, lane ^ 16),  # the part before may be read, the part behind not
        base + lane // 4 * 4 + 1,
    ]
    assert_array_equal(out, expected)
    assert_array_equal(votes[0], np.where(base, 3, 0))
    same = [sum(1 << i for i in range(32) if (b + i) % 3 == (b + me) % 3) for me, b in zip(lane, base)]
    assert_array_equal(votes[1], same)
    assert_array_equal(votes[2], 23)


def test_bits_and_mathematics(kernel):
    out = np.zeros(9, np.uint32)
    kernel("bits")((1,), (1,), (out,))
    assert out.tolist() == [
        9,
        4,
        31 + 3200,
        3 << 30,
        0x3F800000,
        1,
        102,
        2 + 30 + 100 + 2000,
        3 + 100 * (1 + (1 << 31)) % 2**32,
    ]


def test_atomics(kernel, schedule):
    ints = np.zeros(4, np.int32)
    words = np.array([0, 2**32 - 1, 0, 7, 0], np.uint32)
    longs = np.zeros(2, np.uint64)
    kernel("atomics")((1,), (96,), (ints, words, longs))
    assert ints.tolist() == [-95, 95, -96, -192]
    assert words.tolist() == [2**32 - 1, 0, 2**32 - 1, 8, 5]
    assert longs.tolist() == [96 << 33, 95 << 40]


def test_what_was_done_before_the_first_barrier_is_done_once(kernel):
    """The first launch starts anew, with a fiber for each thread, when it comes to a barrier."""
    out = np.zeros(8, np.int32)
    launch(kernel, "add_before_barrier", out, block=(8,))
    assert_array_equal(out, 1)


def test_shared_memory_begins_with_anything_but_zero(kernel, schedule):
    out = np.zeros(3, np.int32)
    launch(kernel, "unset", out, np.int32(2), grid=(3,))
    assert_array_equal(out, 5)
    launch(kernel, "unset", out, np.int32(-1), grid=(3,))
    assert_array_equal(out, 0x7F7F7F7F)


def turns(kernel, grid, block):
    """Number of the thread that came first, second ..., in the ordered schedule and in 20 random ones."""
    n = grid * block
    for seed in (None, *range(20)):
        turn = np.full(n, -1, np.int32)
        with hostcuda.shuffled(seed) if seed is not None else threading.Lock():
            launch(kernel, "order", np.zeros(1, np.int32), turn, grid=(grid,), block=(block,))
        assert_array_equal(np.sort(turn), np.arange(n))
        yield turn


@pytest.mark.parametrize(("grid", "block"), [(64, 1), (1, 64), (8, 8)])
def test_shuffled_threads_come_in_any_order(kernel, grid, block):
    in_order, *shuffled = turns(kernel, grid, block)
    assert_array_equal(in_order, np.arange(64))
    assert min(np.flatnonzero(turn == 63)[0] for turn in shuffled) < 10
    assert len({tuple(turn) for turn in shuffled}) == 20


def test_a_lost_update_shows_when_shuffled(kernel):
    count = np.zeros(1, np.int32)
    kernel("count_without_atomic")((4,), (64,), (count,))
    assert count[0] == 256
    for seed in range(10):
        with hostcuda.shuffled(seed):
            lost, kept = np.zeros(1, np.int32), np.zeros(1, np.int32)
            kernel("count_without_atomic")((4,), (64,), (lost,))
            kernel("count_with_atomic")((4,), (64,), (kept,))
        assert lost[0] < 256 and kept[0] == 256


def components(parents):
    while (parents[parents] != parents).any():
        parents = parents[parents]
    return parents


def unite(kernel, retry, seed=None):
    """Whether a union-find sees that 150 nodes are one component: a later node joins each of them to the next."""
    upper = np.arange(149, dtype=np.int32)
    a, b = np.tile(upper + np.int32(150), 2), np.concatenate([upper, upper + np.int32(1)])
    parents = np.arange(299, dtype=np.int32)
    launch = kernel("unite"), ((5,), (64,), (a, b, parents, np.int32(a.size), np.bool_(retry)))
    if seed is None:
        launch[0](*launch[1])
    else:
        with hostcuda.shuffled(seed):
            launch[0](*launch[1])
    return not components(parents).any()


def test_a_union_that_does_not_try_again_shows_when_shuffled(kernel):
    assert unite(kernel, retry=True) and unite(kernel, retry=False)
    for seed in range(10):
        assert unite(kernel, retry=True, seed=seed)
        assert not unite(kernel, retry=False, seed=seed)


def test_a_missing_barrier_shows_when_shuffled(kernel):
    x = np.arange(64, dtype=np.int32)
    expected = np.where(x < 32, 0, x[::-1])
    out = np.zeros(64, np.int32)
    kernel("reverse_without_barrier")((1,), (64,), (x, out))
    assert_array_equal(out, expected)
    for seed in range(10):
        with hostcuda.shuffled(seed):
            kernel("reverse_without_barrier")((1,), (64,), (x, out))
        assert (out != expected).any()


def test_seeds_repeat_and_differ(kernel):
    def run(seed):
        count = np.zeros(1, np.int32)
        with hostcuda.shuffled(seed):
            kernel("count_without_atomic")((4,), (64,), (count,))
        return int(count[0])

    results = [run(seed) for seed in range(20)]
    assert results == [run(seed) for seed in range(20)]
    assert len(set(results)) > 3


def launch(kernel, name, *args, grid=(1,), block=(1,), **options):
    return kernel(name)(grid, block, args, **options)


F4 = np.arange(8, dtype=np.float32)
I4 = np.zeros(64, np.int32)
LONE = np.zeros(1, np.int32)


@pytest.mark.parametrize(
    ("name", "args", "block", "message"),
    [
        ("one_too_many", (F4, F4.copy(), np.int32(8)), 32, "reads 4 bytes at byte 32 of argument 'x', which has 32"),
        ("write_at", (F4.copy(), np.int32(-3)), 1, "writes 4 bytes at byte -12 of argument 'out'"),
        ("read_wide", (F4, np.zeros(1)), 1, "reads 8 bytes at byte 4 of argument 'x', which is not aligned"),
        ("write_const", (F4,), 1, "writes to argument 'x', a pointer to const"),
        ("early_return", (I4, np.int32(40)), 64, r"40 threads wait at line \d+, 24 have returned\n    __syncthreads"),
        ("early_return_of_the_first", (I4, np.int32(24)), 64, r"40 threads wait at line \d+, 24 have returned"),
        ("two_barriers", (I4,), 64, "two barriers"),
        ("lanes_missing", (I4.view(np.uint32), np.int32(40)), 64, "8 threads wait at a ballot .* 56 have returned"),
        ("ballot", (I4.view(np.uint32), np.uint32(2**32 - 1)), 48, "the last warp of a block of 48 threads has 16"),
        ("ballot", (I4.view(np.uint32), np.uint32(1)), 32, "by lane 1, which is not in it"),
        ("shuffle_from", (I4, np.uint32(15), np.int32(9)), 32, "from lane 9, which is not in its mask"),
        ("deep", (LONE,), 32, "more than 65536 bytes of stack"),
    ],
)
def test_what_a_gpu_would_not_tell(kernel, name, args, block, message):
    with pytest.raises(RuntimeError, match=message):
        launch(kernel, name, *args, block=(block,))
    kernel("nothing")((1,), (32,), ())  # and the next launch is not disturbed
    out = np.zeros(1, np.int32)
    kernel("total")((1,), (32,), (np.ones(32, np.int32), out, np.int32(32)))
    assert out[0] == 32


def test_arrays_are_left_alone_when_a_launch_fails(kernel):
    out = np.zeros(8, np.float32)
    with pytest.raises(RuntimeError, match="one_too_many"):
        launch(kernel, "one_too_many", F4, out, np.int32(8), block=(32,))
    assert not out.any()


def test_writes_that_the_compiler_does_not_report(kernel):
    out = np.zeros(8, np.float32)
    launch(kernel, "write_unseen", np.ones(8, np.float32), out, np.int32(2), np.int32(3))
    assert_array_equal(out, [0, 0, 0, 1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="write_unseen wrote into 'x', a pointer to const"):
        launch(kernel, "write_unseen", F4, out, np.int32(2), np.int32(3))
    with pytest.raises(IndexError, match="write_unseen wrote outside its arrays, nearest to 'out'"):
        launch(kernel, "write_unseen", np.ones(8, np.float32), out, np.int32(2), np.int32(8))


def test_a_kernel_that_does_not_end(kernel, monkeypatch):
    monkeypatch.setattr(hostcuda, "SECONDS", 0.1)
    for context in (hostcuda.shuffled(1), threading.Lock()):
        with context, pytest.raises(RuntimeError, match=r"kernel forever: still running after 0\.1 s"):
            launch(kernel, "forever", np.zeros(1, np.int32), block=(32,))


def test_a_kernel_that_never_touches_memory_ends_the_process():
    program = """
import hostcuda
hostcuda.SECONDS = 0.1
code = 'extern "C" __global__ void spin() { volatile int x = 0; while (x == 0) {} }'
hostcuda.RawModule(code=code).get_function("spin")((1,), (1,), ())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 70 and "kernel spin still runs after 0.1 s" in done.stderr


X, Y, OUT, N = F4, F4.copy(), np.zeros(8, np.float32), np.int64(8)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((X, Y, OUT), TypeError, r"takes 4 arguments \(x, y, out, n\), got 3"),
        ((X, Y, N, OUT), TypeError, "'out' of kernel add must be an array of float32"),
        ((X, Y, OUT, np.int32(8)), TypeError, "'n' of kernel add must be a NumPy int64 scalar, got int32"),
        ((X, Y, OUT, 8), TypeError, "'n' of kernel add must be a NumPy int64 scalar, got int"),
        ((X, Y, OUT, np.array(8)), TypeError, "must be a NumPy int64 scalar, got ndarray of int64"),
        ((X.astype(float), Y, OUT, N), TypeError, "'x' of kernel add must be an array of float32, got float64"),
        ((None, Y, OUT, N), TypeError, "'x' of kernel add must be an array of float32 .*, got NoneType"),
        ((X[::2], Y, OUT, N), ValueError, "'x' of kernel add must be C-contiguous"),
        ((np.zeros((8, 2), np.float32).T, Y, OUT, N), ValueError, r"shape \(2, 8\) with strides \(4, 8\)"),
        ((np.broadcast_to(X, (2, 8)), Y, OUT, N), ValueError, r"'x' of kernel add must be C-contiguous"),
        ((X, Y, X, N), ValueError, "'x' and 'out' are the same memory, but __restrict__"),
        ((X[1:], Y, X[:-1], N), ValueError, "'x' and 'out' overlap but are not the same memory"),
    ],
)
def test_wrong_arguments(kernel, args, error, message):
    with pytest.raises(error, match=message):
        kernel("add")((1,), (8,), args)


def test_read_only_arrays(kernel):
    fixed = F4.copy()
    fixed.flags.writeable = False
    out = np.zeros(8, np.float32)
    kernel("add")((1,), (8,), (fixed, fixed, out, np.int64(8)))
    assert_array_equal(out, 2 * F4)
    with pytest.raises(ValueError, match="'out' of kernel add is no pointer to const but the array is read-only"):
        kernel("add")((1,), (8,), (out, out, fixed, np.int64(8)))


@pytest.mark.parametrize(
    ("grid", "block", "error", "message"),
    [
        ((0,), (1,), ValueError, "grid must be integers from 1 to"),
        ((1, 65536), (1,), ValueError, r"grid must be integers .* got \(1, 65536\)"),
        ((2**31,), (1,), ValueError, "grid must be integers"),
        ((1.0,), (1,), ValueError, "grid must be integers"),
        (1, (1,), TypeError, "grid must be a tuple"),
        ((1,), [1], TypeError, "block must be a tuple"),
        ((1,), (1, 1, 1, 1), TypeError, "block must be a tuple of one to three"),
        ((1,), (1, 1, 65), ValueError, "block must be integers"),
        ((1,), (1025,), ValueError, "block must be integers"),
        ((1,), (32, 33), ValueError, "at most 1024 threads per block"),
    ],
)
def test_wrong_sizes(kernel, grid, block, error, message):
    with pytest.raises(error, match=message):
        kernel("nothing")(grid, block, ())


def test_other_refusals(kernel):
    kernel("small_blocks")((1,), (64,), (I4.copy(),))
    with pytest.raises(ValueError, match="small_blocks takes at most 64 threads per block"):
        kernel("small_blocks")((1,), (65,), (np.zeros(65, np.int32),))
    with pytest.raises(ValueError, match="shared_mem=4"):
        kernel("nothing")((1,), (1,), (), shared_mem=4)
    with pytest.raises(TypeError, match="arguments as a tuple, got ndarray"):
        kernel("numbers")((1,), (1,), I4)
    with pytest.raises(KeyError, match="no kernel 'missing' in this module; it has add, numbers"):
        kernel("missing")
    with pytest.raises(KeyError, match="no kernel 'extra'"):
        kernel("extra")
    with pytest.raises(TypeError, match="options must be a tuple"):
        hostcuda.RawModule(code=CODE, options="-DX")


def test_null_pointers(kernel):
    for null in (0, np.uintp(0), np.intp(0)):
        out = np.zeros(1, np.int32)
        launch(kernel, "nullable", null, out)
        assert out[0] == 1
    out = np.zeros(1, np.int32)
    launch(kernel, "nullable", F4, out)
    assert out[0] == 0


def test_in_place(kernel):
    array = F4.copy()
    launch(kernel, "in_place", array, array, block=(8,))
    assert_array_equal(array, 2 * F4)
    array = F4.copy()
    launch(kernel, "in_place", array.reshape(2, 4), array, block=(8,))
    assert_array_equal(array, 2 * F4)


def test_planes_may_lie_apart(kernel):
    """A stack of bands out of larger planes; what lies between them is not read and not lost."""
    stack = np.arange(60, dtype=np.float32).reshape(3, 5, 4)
    bands, out = stack[:, 1:3], np.zeros((3, 5, 4), np.float32)
    launch(kernel, "in_place", bands, out[:, 1:3], block=(8,))
    assert_array_equal(out[0, 1:3], 2 * stack[0, 1:3])
    assert np.count_nonzero(out) == 8
    with pytest.raises(IndexError, match="write_at wrote outside its arrays, nearest to 'out'"):
        launch(kernel, "write_at", out[:, 1:3], np.int32(8))


def test_macros(kernel):
    module = hostcuda.RawModule(code=CODE, options=(*OPTIONS, "-DEXTRA=signed char"))
    out = np.zeros(1, np.int8)
    module.get_function("extra")((1,), (1,), (out,))
    assert out[0] == 3


def test_text_that_does_not_compile():
    code = 'extern "C" __global__ void f(int* x) { x[0] = wrong; }'
    with pytest.raises(RuntimeError, match=r"compiling for the CPU failed:\n(?s:.)*kernel\.cu:1:.*wrong"):
        hostcuda.RawModule(code=code).get_function("f")
    with pytest.raises(RuntimeError, match="preprocessing failed"):
        hostcuda.RawModule(code="#error no").get_function("f")
    with pytest.raises(TypeError, match="'long n' has no type with a fixed size"):
        hostcuda.RawModule(code='extern "C" __global__ void f(long n) {}').get_function("f")


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(hostcuda, "compiler", tuple)
    assert not hostcuda.available()
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler: install g\\+\\+"):
        hostcuda.RawModule(code="// never built").get_function("f")


def test_launches_are_counted(kernel):
    hostcuda.reset()
    for _ in range(3):
        launch(kernel, "nothing")
    launch(kernel, "nullable", 0, LONE.copy())
    assert hostcuda.launches == {"nothing": 3, "nullable": 1}
    hostcuda.reset()
    assert not hostcuda.launches


@pytest.mark.parametrize("where", ["__shared__ float tile[8];", "float tile[8];"])
@pytest.mark.parametrize("index", [-1, 8])
def test_an_index_outside_an_array_of_fixed_length(where, index):
    """Beyond the end of a shared array, or one of a thread's own, lies other memory; nobody else would notice."""
    code = f"""extern "C" __global__ void touch(const int *index, float *out) {{
        {where}
        for (int i = 0; i < 8; i++) tile[i] = i;
        tile[index[0]] = 5.0f;
        out[0] = tile[3] + tile[index[0]];
    }}"""
    kernel = hostcuda.RawModule(code=code).get_function("touch")
    out = np.zeros(1, np.float32)
    kernel((1,), (1,), (np.array([3], np.int32), out))
    assert out[0] == 10
    with pytest.raises(
        RuntimeError, match=rf"index {index} is outside an array of fixed length, at line 4(?s:.)*5\.0f"
    ):
        kernel((1,), (1,), (np.array([index], np.int32), out))
