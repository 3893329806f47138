// Put in front of a .cu file, this lets a C++ compiler build it; host_cuda.cpp is what it then runs on.
//
// A block without barriers is a loop over its threads. Otherwise each thread is a fiber, and barriers, votes and
// shuffles are calls into the scheduler, which knows the line they stand on. Atomics, and with -fsanitize=thread every
// read and write, first report the address they go to.

#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#ifdef __APPLE__
#define __shared__ static
#else
#define __shared__ static __attribute__((section("cuda_shared")))  // in one place, so that blocks can take turns
#endif

typedef unsigned long long ulonglong;
struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;
#ifndef HOST_CUDA_RUNTIME  // constant as far as one thread can see
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
static const int warpSize = 32;
#endif

namespace host_cuda {

struct Array {  // of a launch
    const char* name;
    unsigned long first, size;
    int writable;
};
struct Launch {
    unsigned grid[3], block[3];
    int mode, n_arrays;
    ulonglong seed;
    double seconds;
    const char* arena;  // all arrays, with guard zones before, between and behind them
    unsigned long arena_size;
    const Array* arrays;  // in order of address
};
enum Exchange { SYNC, BALLOT, SHUFFLE, MATCH };

int run(const Launch* launch, void (*kernel)(void**), void** args, char* message, int length);
int barrier(int value, int line);                                                         // sum over the block
ulonglong meet(Exchange exchange, unsigned mask, ulonglong value, int source, int line);  // what this lane gets
void before_atomic(const void* address, unsigned long size);
int lane();

template <class T>
static T exchange_value(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    ulonglong bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = meet(SHUFFLE, mask, bits, source, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class To, class From>
static inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace host_cuda

// Barriers, votes and shuffles. The line of the call comes along as a default argument.
static inline void __syncthreads(int line = __builtin_LINE()) { host_cuda::barrier(0, line); }
static inline int __syncthreads_count(int p, int line = __builtin_LINE()) { return host_cuda::barrier(p != 0, line); }
static inline int __syncthreads_or(int p, int line = __builtin_LINE()) { return host_cuda::barrier(p != 0, line) != 0; }
static inline int __syncthreads_and(int p, int line = __builtin_LINE()) {
    return host_cuda::barrier(p == 0, line) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    host_cuda::meet(host_cuda::SYNC, mask, 0, 0, line);
}
static inline unsigned __ballot_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return (unsigned)host_cuda::meet(host_cuda::BALLOT, mask, p != 0, 0, line);
}
static inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return __ballot_sync(mask, p, line) != 0;
}
static inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return __ballot_sync(mask, p, line) == mask;
}
template <class T>
static unsigned __match_any_sync(unsigned mask, T value, int line = __builtin_LINE()) {
    ulonglong bits = 0;
    memcpy(&bits, &value, sizeof value);
    return (unsigned)host_cuda::meet(host_cuda::MATCH, mask, bits, 0, line);
}
template <class T>
static T __shfl_sync(unsigned mask, T v, int from, int width = 32, int line = __builtin_LINE()) {
    int first = host_cuda::lane() / width * width;
    return host_cuda::exchange_value(mask, v, first + (from & (width - 1)), line);
}
template <class T>
static T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, int line = __builtin_LINE()) {
    int lane = host_cuda::lane(), from = lane - (int)by;
    return host_cuda::exchange_value(mask, v, from < lane / width * width ? lane : from, line);
}
template <class T>
static T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, int line = __builtin_LINE()) {
    int lane = host_cuda::lane(), from = lane + (int)by;
    return host_cuda::exchange_value(mask, v, from >= lane / width * width + width ? lane : from, line);
}
template <class T>
static T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32, int line = __builtin_LINE()) {
    int lane = host_cuda::lane(), from = lane ^ by;
    return host_cuda::exchange_value(mask, v, from >= lane / width * width + width ? lane : from, line);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// Atomics, for the types that CUDA has them for; none on floats, whose sums would depend on the order.
#define HOST_CUDA_WHOLE __attribute__((noinline, no_sanitize("thread"), unused)) static
#define HOST_CUDA_ATOMIC(name, T, result)             \
    HOST_CUDA_WHOLE T name(T* address, T value) {     \
        host_cuda::before_atomic(address, sizeof(T)); \
        T old = *address;                             \
        *address = (result);                          \
        return old;                                   \
    }
#define HOST_CUDA_ATOMICS(T)                                       \
    HOST_CUDA_ATOMIC(atomicAdd, T, old + value)                    \
    HOST_CUDA_ATOMIC(atomicExch, T, value)                         \
    HOST_CUDA_ATOMIC(atomicMin, T, value < old ? value : old)      \
    HOST_CUDA_ATOMIC(atomicMax, T, value > old ? value : old)      \
    HOST_CUDA_ATOMIC(atomicAnd, T, old& value)                     \
    HOST_CUDA_ATOMIC(atomicOr, T, old | value)                     \
    HOST_CUDA_ATOMIC(atomicXor, T, old ^ value)                    \
    HOST_CUDA_WHOLE T atomicCAS(T* address, T expected, T value) { \
        host_cuda::before_atomic(address, sizeof(T));              \
        T old = *address;                                          \
        if (old == expected) *address = value;                     \
        return old;                                                \
    }
HOST_CUDA_ATOMICS(int)
HOST_CUDA_ATOMICS(unsigned)
HOST_CUDA_ATOMICS(ulonglong)
HOST_CUDA_ATOMIC(atomicMin, long long, value < old ? value : old)
HOST_CUDA_ATOMIC(atomicMax, long long, value > old ? value : old)
HOST_CUDA_ATOMIC(atomicSub, int, old - value)
HOST_CUDA_ATOMIC(atomicSub, unsigned, old - value)

// Bits.
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(ulonglong x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((ulonglong)x) : 64; }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __float_as_uint(float x) { return host_cuda::bits<unsigned>(x); }
static inline int __float_as_int(float x) { return host_cuda::bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return host_cuda::bits<float>(x); }
static inline float __int_as_float(int x) { return host_cuda::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return host_cuda::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return host_cuda::bits<double>(x); }
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((ulonglong)high << 32 | low) << (by & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((ulonglong)high << 32 | low) >> (by & 31));
}

// Loads with a hint for the cache.
template <class T>
static inline T __ldg(const T* p) {
    return *p;
}
template <class T>
static inline T __ldcs(const T* p) {
    return *p;
}

// Mathematics that C has under another name or not at all.
#define HOST_CUDA_MIN_MAX(T)                                \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
HOST_CUDA_MIN_MAX(int)
HOST_CUDA_MIN_MAX(unsigned)
HOST_CUDA_MIN_MAX(long)
HOST_CUDA_MIN_MAX(unsigned long)
HOST_CUDA_MIN_MAX(long long)
HOST_CUDA_MIN_MAX(ulonglong)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __double2int_rn(double x) { return (int)rint(x); }
