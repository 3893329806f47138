// Runs a kernel built with host_cuda.h on one CPU thread; `run` is a launch.
//
// Threads are fibers: a stack each, and a scheduler that switches to one until it waits or ends. The ordered schedule
// takes the blocks one after another and their threads in turn. The shuffled one keeps several blocks going, picks
// threads at random, and tosses a coin before every access to memory that others see whether to go on with another.
// Whatever a GPU leaves undefined and can be seen here (a barrier that not all threads reach, an exchange with a lane
// that is not there, an address outside the arrays) ends the launch with a message.

#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE
#define HOST_CUDA_RUNTIME
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "host_cuda.h"  // last: some of its names mean other things to the library

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

#ifndef __APPLE__
extern "C" char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
#endif

namespace host_cuda {

enum Mode { LOOP, ORDERED, SHUFFLED };
enum Outcome { FINE, FAILED, NEEDS_FIBERS };
enum Wait { READY, BARRIER, WARP, DONE };

struct Block;
struct Fiber {
    jmp_buf state;
    ucontext_t first;
    char* stack;
    bool made;
    Block* block;
    unsigned number;
    uint3 thread;
    Wait wait;
    int line, source, sum;
    Exchange exchange;
    unsigned mask;
    ulonglong value;
};
struct Block {
    uint3 index;
    std::vector<Fiber*> fibers;
    std::deque<Fiber*> ready;
    unsigned n_done, n_waiting;
    int sum;
    std::vector<char> shared;
};

static const size_t STACK = 1 << 16;  // of each thread; as much again lies below, where too much use is noticed
static const size_t MARK = 512;
static const char* const EXCHANGES[] = {"__syncwarp", "a ballot or vote", "a shuffle", "__match_any_sync"};

static struct {
    Launch launch;
    void (*kernel)(void**);
    void** args;
    char* message;
    size_t length;
    Outcome outcome;
    jmp_buf scheduler;
    Fiber* current;
    Block* resident;  // whose shared memory is in place
    std::vector<Block*> live;
    std::vector<Fiber*> idle;
    ulonglong random;
    unsigned n_threads, steps;
    struct timespec start;
} now;

static unsigned toss() {
    now.random ^= now.random << 13;
    now.random ^= now.random >> 7;
    now.random ^= now.random << 17;
    return (unsigned)(now.random >> 32);
}

// Back to the scheduler, for good unless `pause` has kept the place.
[[noreturn]] static void leave() { _longjmp(now.scheduler, 1); }

__attribute__((noinline)) static void pause() {
    if (!_setjmp(now.current->state)) leave();
}

__attribute__((format(printf, 1, 2))) static void note(const char* format, ...) {
    if (now.outcome == FAILED) return;
    now.outcome = FAILED;
    va_list values;
    va_start(values, format);
    vsnprintf(now.message, now.length, format, values);
    va_end(values);
}

#define FAIL(...) (note(__VA_ARGS__), leave())

static void check_time() {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    double seconds = (double)(at.tv_sec - now.start.tv_sec) + 1e-9 * (double)(at.tv_nsec - now.start.tv_nsec);
    if (seconds > now.launch.seconds) FAIL("still running after %g s", now.launch.seconds);
}

static void need_fibers() {
    if (now.launch.mode != LOOP) return;
    now.outcome = NEEDS_FIBERS;
    leave();
}

static void wake(Fiber* fiber) {
    fiber->wait = READY;
    fiber->block->ready.push_back(fiber);
}

static bool is_shared(const char* address) {
#ifdef __APPLE__
    return false;
#else
    return address >= __start_cuda_shared && address < __stop_cuda_shared;
#endif
}

// What is wrong with an access inside the arena, if anything.
static void check_access(const char* address, unsigned long size, bool write) {
    const Array *array = now.launch.arrays, *end = array + now.launch.n_arrays;
    unsigned long at = (unsigned long)(address - now.launch.arena);
    while (array + 1 < end && at + 2048 >= array[1].first) array++;  // the nearest: guard zones are longer
    uint3 b = blockIdx, t = threadIdx;
    if (array == end || at < array->first || at + size > array->first + array->size)
        FAIL("thread (%u, %u, %u) of block (%u, %u, %u) %s %lu bytes at byte %ld of argument %s, which has %lu bytes",
             t.x, t.y, t.z, b.x, b.y, b.z, write ? "writes" : "reads", size,
             array == end ? 0 : (long)(at - array->first), array == end ? "none" : array->name,
             array == end ? 0 : array->size);
    if (write && !array->writable)
        FAIL("thread (%u, %u, %u) of block (%u, %u, %u) writes to argument %s, a pointer to const", t.x, t.y, t.z, b.x,
             b.y, b.z, array->name);
    if ((uintptr_t)address % size)
        FAIL("thread (%u, %u, %u) of block (%u, %u, %u) %s %lu bytes at byte %lu of argument %s, which is not aligned",
             t.x, t.y, t.z, b.x, b.y, b.z, write ? "writes" : "reads", size, at - array->first, array->name);
}

static inline void access(const void* pointer, unsigned long size, bool write, unsigned one_in) {
    const char* address = (const char*)pointer;
    bool global = (uintptr_t)address - (uintptr_t)now.launch.arena < now.launch.arena_size;
    if (!global && !is_shared(address)) return;
    if (++now.steps % 65536 == 0) check_time();
    if (global) check_access(address, size, write);
    if (now.launch.mode != SHUFFLED || toss() % one_in) return;
    wake(now.current);
    pause();
}

void out_of_bounds(long index, unsigned line) {
    FAIL("index %ld is outside an array of fixed length, at line %u", index, line);
}

void before_atomic(const void* address, unsigned long size) { access(address, size, true, 2); }

int lane() { return (int)(now.current->number % 32); }

int barrier(int value, int line) {
    need_fibers();
    Fiber* self = now.current;
    Block* block = self->block;
    if (block->n_waiting == 0) block->sum = 0;
    for (Fiber* other : block->fibers)
        if (other->wait == BARRIER && other->line != line)
            FAIL("threads of block (%u, %u, %u) wait at two barriers, at line %d and at line %d", block->index.x,
                 block->index.y, block->index.z, line, other->line);
    block->sum += value;
    self->wait = BARRIER;
    self->line = line;
    if (++block->n_waiting == now.n_threads) {
        block->n_waiting = 0;
        for (Fiber* other : block->fibers) {
            other->sum = block->sum;
            wake(other);
        }
    }
    pause();
    return self->sum;
}

// All lanes of `mask` have come: give each what the exchange is for.
static void exchange_all(Fiber** warp, Exchange exchange, unsigned mask) {
    ulonglong brought[32] = {}, votes = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) {
            brought[i] = warp[i]->value;
            votes |= (ulonglong)(brought[i] != 0) << i;
        }
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        if (exchange == BALLOT) warp[i]->value = votes;
        if (exchange == SHUFFLE) warp[i]->value = brought[warp[i]->source];
        if (exchange == MATCH) {
            warp[i]->value = 0;
            for (int j = 0; j < 32; j++)
                if (mask >> j & 1 && brought[j] == brought[i]) warp[i]->value |= 1ull << j;
        }
        wake(warp[i]);
    }
}

ulonglong meet(Exchange exchange, unsigned mask, ulonglong value, int source, int line) {
    need_fibers();
    Fiber* self = now.current;
    const char* what = EXCHANGES[exchange];
    unsigned base = self->number / 32 * 32, lane = self->number % 32, n_lanes = std::min(32u, now.n_threads - base);
    Fiber** warp = &self->block->fibers[base];
    if (!(mask >> lane & 1))
        FAIL("line %d: %s with mask 0x%08x by lane %u, which is not in it", line, what, mask, lane);
    if (n_lanes < 32 && mask >> n_lanes)
        FAIL("line %d: %s with mask 0x%08x, but the last warp of a block of %u threads has %u lanes", line, what, mask,
             now.n_threads, n_lanes);
    if (exchange == SHUFFLE && !(mask >> source & 1))
        FAIL("line %d: a shuffle by lane %u from lane %d, which is not in its mask 0x%08x", line, lane, source, mask);
    self->wait = WARP;
    self->exchange = exchange;
    self->line = line;
    self->mask = mask;
    self->value = value;
    self->source = source;
    bool all = true;
    for (int i = 31; i >= 0 && all; i--)
        if (mask >> i & 1)
            all = warp[i]->wait == WARP && warp[i]->line == line && warp[i]->mask == mask &&
                  warp[i]->exchange == exchange;
    if (all) exchange_all(warp, exchange, mask);
    pause();
    return self->value;
}

static void mark_end(char* stack) { memset(stack + STACK - MARK, 0x5a, MARK); }

static bool end_is_marked(const char* stack) {
    const char* mark = stack + STACK - MARK;
    return *mark == 0x5a && !memcmp(mark, mark + 1, MARK - 1);
}

static void fiber_main() {
    for (;;) {
        now.kernel(now.args);
        Fiber* self = now.current;
        if (!end_is_marked(self->stack)) FAIL("a thread used more than %zu bytes of stack", STACK);
        self->wait = DONE;
        self->block->n_done++;
        pause();
    }
}

static void loop_main() {
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
                for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
                    for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
                        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) now.kernel(now.args);
    leave();
}

static Fiber* idle_fiber(void (*start)(), bool as_left) {
    if (now.idle.empty()) {
        now.idle.push_back(new Fiber());
        now.idle.back()->stack = (char*)malloc(2 * STACK);
    }
    Fiber* fiber = now.idle.back();
    now.idle.pop_back();
    if (fiber->made && as_left) return fiber;  // waits in fiber_main for its next thread
    fiber->made = false;
    mark_end(fiber->stack);
    getcontext(&fiber->first);
    fiber->first.uc_stack.ss_sp = fiber->stack;
    fiber->first.uc_stack.ss_size = 2 * STACK;
    fiber->first.uc_link = nullptr;
    makecontext(&fiber->first, start, 0);
    return fiber;
}

// Run a fiber until it waits, ends or fails. Both ways are jumps: swapcontext would ask the kernel each time.
__attribute__((noinline)) static void switch_to(Fiber* fiber) {
    if (_setjmp(now.scheduler)) return;
    now.current = fiber;
    if (fiber->made) _longjmp(fiber->state, 1);
    fiber->made = true;
    setcontext(&fiber->first);
}

static size_t shared_size() {
#ifdef __APPLE__
    return 0;
#else
    return (size_t)(__stop_cuda_shared - __start_cuda_shared);
#endif
}

// Put the shared memory of a block in its place.
static void bring_in(Block* block) {
#ifndef __APPLE__
    if (block == now.resident || !shared_size()) return;
    if (now.resident) memcpy(now.resident->shared.data(), __start_cuda_shared, shared_size());
    memcpy(__start_cuda_shared, block->shared.data(), shared_size());
    now.resident = block;
#endif
}

static Block* new_block(ulonglong number) {
    Block* block = new Block();
    block->index = {(unsigned)(number % gridDim.x), (unsigned)(number / gridDim.x % gridDim.y),
                    (unsigned)(number / gridDim.x / gridDim.y)};
    block->shared.assign(shared_size(), 0x7f);  // never zero by chance
    for (unsigned i = 0; i < now.n_threads; i++) {
        Fiber* fiber = idle_fiber(fiber_main, true);
        fiber->block = block;
        fiber->number = i;
        fiber->thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        block->fibers.push_back(fiber);
        wake(fiber);
    }
    return block;
}

static void end_block(Block* block) {
    now.live.erase(std::find(now.live.begin(), now.live.end(), block));
    now.idle.insert(now.idle.end(), block->fibers.rbegin(), block->fibers.rend());
    if (now.resident == block) now.resident = nullptr;
    delete block;
}

static void describe_deadlock(const Block* block) {
    unsigned at_barrier = 0, at_warp = 0;
    const Fiber *barrier = nullptr, *exchange = nullptr;
    for (const Fiber* fiber : block->fibers) {
        if (fiber->wait == BARRIER) at_barrier++, barrier = fiber;
        if (fiber->wait == WARP) at_warp++, exchange = fiber;
    }
    uint3 b = block->index;
    if (exchange)
        note(
            "not all lanes reach the warp exchange: in block (%u, %u, %u) %u threads wait at %s with mask 0x%08x, line "
            "%d, "
            "%u wait at a barrier, %u have returned",
            b.x, b.y, b.z, at_warp, EXCHANGES[exchange->exchange], exchange->mask, exchange->line, at_barrier,
            block->n_done);
    else
        note("not all threads reach the barrier: in block (%u, %u, %u) %u threads wait at line %d, %u have returned",
             b.x, b.y, b.z, at_barrier, barrier->line, block->n_done);
}

// A block that can go on, mostly the one that ran last; none when all wait for what will not come.
static Block* choose_block(Block* last) {
    if (last && !last->ready.empty() && (now.launch.mode != SHUFFLED || toss() % 8)) return last;
    size_t n = now.live.size(), first = now.launch.mode == SHUFFLED ? toss() % n : 0;
    for (size_t i = 0; i < n; i++)
        if (!now.live[(first + i) % n]->ready.empty()) return now.live[(first + i) % n];
    return nullptr;
}

static void run_fibers() {
    bool shuffled = now.launch.mode == SHUFFLED;
    ulonglong n_blocks = (ulonglong)gridDim.x * gridDim.y * gridDim.z;
    std::vector<ulonglong> order;
    for (ulonglong i = 0; i < n_blocks; i++) order.push_back(n_blocks - 1 - i);  // taken from the end
    for (ulonglong i = n_blocks; shuffled && i > 1; i--) std::swap(order[i - 1], order[toss() % i]);
    size_t at_once = 1;
#ifndef __APPLE__
    if (shuffled) at_once = std::max(1u, std::min(16u, 1024 / now.n_threads));
#endif
    Block* block = nullptr;
    while (now.outcome == FINE) {
        for (; now.live.size() < at_once && !order.empty(); order.pop_back())
            now.live.push_back(new_block(order.back()));
        if (now.live.empty()) break;
        block = choose_block(block);
        if (!block) {
            describe_deadlock(now.live[0]);
            break;
        }
        if (shuffled) std::swap(block->ready.front(), block->ready[toss() % block->ready.size()]);
        Fiber* fiber = block->ready.front();
        block->ready.pop_front();
        bring_in(block);
        threadIdx = fiber->thread;
        blockIdx = block->index;
        switch_to(fiber);
        if (now.outcome == FINE && block->n_done == now.n_threads) {
            end_block(block);
            block = nullptr;
        }
    }
    for (Block* stopped : std::vector<Block*>(now.live)) {  // after a failure: what these threads were doing is lost
        for (Fiber* fiber : stopped->fibers) fiber->made = false;
        end_block(stopped);
    }
}

int run(const Launch* launch, void (*kernel)(void**), void** args, char* message, int length) {
    now.launch = *launch;
    now.kernel = kernel;
    now.args = args;
    now.message = message;
    now.length = (size_t)length;
    now.outcome = FINE;
    now.random = launch->seed * 0x9e3779b97f4a7c15ull | 1;
    now.steps = 0;
    for (int i = 0; i < 8; i++) toss();  // small seeds start alike
    clock_gettime(CLOCK_MONOTONIC, &now.start);
    gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
    blockDim = {launch->block[0], launch->block[1], launch->block[2]};
    now.n_threads = blockDim.x * blockDim.y * blockDim.z;
    if (launch->mode == LOOP) {
        Fiber* fiber = idle_fiber(loop_main, false);
        switch_to(fiber);
        fiber->made = false;
        now.idle.push_back(fiber);
    } else {
        run_fibers();
    }
    return now.outcome;
}

}  // namespace host_cuda

// Where -fsanitize=thread has the compiler report reads and writes to. Only the calls are wanted, not its library.
extern "C" {
#define HOST_CUDA_HOOK(size)                                                            \
    void __tsan_read##size(void* a) { host_cuda::access(a, size, false, 4); }           \
    void __tsan_write##size(void* a) { host_cuda::access(a, size, true, 4); }           \
    void __tsan_unaligned_read##size(void* a) { host_cuda::access(a, size, false, 4); } \
    void __tsan_unaligned_write##size(void* a) { host_cuda::access(a, size, true, 4); }
HOST_CUDA_HOOK(1)
HOST_CUDA_HOOK(2)
HOST_CUDA_HOOK(4)
HOST_CUDA_HOOK(8)
HOST_CUDA_HOOK(16)
void __tsan_read_range(void* a, unsigned long size) { host_cuda::access(a, size, false, 4); }
void __tsan_write_range(void* a, unsigned long size) { host_cuda::access(a, size, true, 4); }
void* __tsan_memcpy(void* to, const void* from, unsigned long size) { return memcpy(to, from, size); }
void* __tsan_memmove(void* to, const void* from, unsigned long size) { return memmove(to, from, size); }
void* __tsan_memset(void* to, int value, unsigned long size) { return memset(to, value, size); }

// And where -fsanitize=bounds has it report an index that an array of known length does not have; of what it is told,
// the line comes behind the name of the file.
void __ubsan_handle_out_of_bounds(void* place, void* index) {
    host_cuda::out_of_bounds((long)index, ((const unsigned*)((const char*)place + sizeof(char*)))[0]);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
