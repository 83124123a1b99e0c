// blocks.cpp: one block.  Warps take turns; a warp goes on until each of its threads is done or waits at a barrier of the block.
//
// A warp operation completes when exactly the lanes that its mask names stand at the same line with the same mask; a barrier, when every thread
// that has not returned stands at one.  What can never complete is reported (synccheck) and the block abandoned.
#include "emu.h"
#include <algorithm>

namespace emu {

static int barrier_answer;

// ---- waiting, from a fiber
int barrier(BarrierKind kind, int predicate, int line)
{
    Fiber *f = machine.current;
    f->barrier = kind;
    f->predicate = predicate;
    f->line = line;
    f->state = AT_BARRIER;
    yield();
    return barrier_answer;
}

void warp_wait(Wait wait, Exchange op, unsigned mask, int line)
{
    Fiber *f = machine.current;
    if (!(mask >> f->ids.lane & 1)) {
        report(0, "synccheck", "line %d: lane %d is not in its own mask %08x", line, f->ids.lane, mask);
        mask |= 1u << f->ids.lane;
    }
    f->wait = wait;
    f->op = op;
    f->mask = mask;
    f->line = line;
    f->state = AT_WARP;
    yield();
}

void syncwarp(unsigned mask, int line)
{
    warp_wait(WAIT_SYNC, X_IDX, mask, line);
}

uint64_t shfl(Exchange op, unsigned mask, uint64_t value, int argument, int width, int line)
{
    Fiber *f = machine.current;
    f->value = value;
    f->argument = argument;
    f->width = width;
    warp_wait(WAIT_EXCHANGE, op, mask, line);
    return f->result;
}

unsigned ballot(unsigned mask, int predicate, int line)
{
    Fiber *f = machine.current;
    f->predicate = predicate;
    warp_wait(WAIT_VOTE, X_BALLOT, mask, line);
    return static_cast<unsigned>(f->result);
}

void trap(int line)
{
    report(0, "trap", "line %d: thread %d ends the kernel", line, machine.current->ids.linear);
    machine.current->state = DONE;
    for (;;)
        yield();
}

// ---- warps
static int source_lane(const Fiber &f)
{
    int lane = f.ids.lane, low = lane & ~(f.width - 1), high = low + f.width - 1, to;
    switch (f.op) {
    case X_IDX:
        return low + (f.argument & (f.width - 1));
    case X_UP:
        to = lane - f.argument;
        return to < low ? lane : to;
    case X_DOWN:
        to = lane + f.argument;
        break;
    default:
        to = lane ^ f.argument;
    }
    return to > high ? lane : to;
}

// The lane of f's mask that has not come to f's operation, or -1.
static int missing_lane(const Fiber *warp, int lanes, const Fiber &f)
{
    for (int j = 0; j < WARP; j++) {
        if (!(f.mask >> j & 1))
            continue;
        if (j >= lanes)
            return j;
        const Fiber &g = warp[j];
        if (g.state != AT_WARP || g.mask != f.mask || g.op != f.op || g.wait != f.wait || g.line != f.line)
            return j;
    }
    return -1;
}

static void give_shuffled(const Fiber *warp, Fiber &f)
{
    int from = source_lane(f);
    if (f.mask >> from & 1) {
        f.result = warp[from].value;
    } else {
        report(0, "synccheck", "line %d: lane %d reads lane %d, which is outside mask %08x", f.line, f.ids.lane, from, f.mask);
        f.result = ~0ull;
    }
}

static void complete(Fiber *warp, int lanes, Wait wait, Exchange op, unsigned mask)
{
    unsigned votes = 0;
    for (int j = 0; j < lanes; j++)
        votes |= static_cast<unsigned>((mask >> j & 1) && warp[j].predicate) << j;
    if (wait == WAIT_EXCHANGE && op == X_MMA)
        mma_execute(warp);
    else if (wait == WAIT_EXCHANGE && op == X_LDMATRIX)
        ldmatrix_execute(warp);
    else if (wait == WAIT_EXCHANGE)
        machine.counts.shuffles++;
    for (int j = 0; j < lanes; j++) {
        if (!(mask >> j & 1))
            continue;
        Fiber &f = warp[j];
        f.state = RUNNING;
        if (wait == WAIT_VOTE)
            f.result = votes;
        else if (wait == WAIT_SYNC)
            f.warp_epoch += mask == 0xffffffffu; // a shuffle orders no memory, as documented; nor does a part of a warp, for this checker
        else if (op <= X_XOR)
            give_shuffled(warp, f);
    }
}

// Completes what can be completed; false when nothing could.
static bool resolve_warp(Fiber *warp, int lanes)
{
    bool any = false;
    for (int i = 0; i < lanes; i++) {
        if (warp[i].state != AT_WARP || missing_lane(warp, lanes, warp[i]) >= 0)
            continue;
        complete(warp, lanes, warp[i].wait, warp[i].op, warp[i].mask);
        any = true;
    }
    return any;
}

// ---- the block
static uint64_t random_next()
{
    machine.seed ^= machine.seed << 13;
    machine.seed ^= machine.seed >> 7;
    machine.seed ^= machine.seed << 17;
    return machine.seed;
}

static void put_in_order(int *what, int first, int n)
{
    for (int i = 0; i < n; i++)
        what[i] = first + (machine.order == 1 ? n - 1 - i : i);
    if (machine.order >= 2)
        for (int i = n - 1; i > 0; i--)
            std::swap(what[i], what[random_next() % static_cast<unsigned>(i + 1)]);
}

static void run_warp(int warp)
{
    int first = warp * WARP, lanes = std::min(WARP, machine.threads - first), order[WARP];
    put_in_order(order, first, lanes);
    do {
        for (int i = 0; i < lanes; i++)
            if (machine.fibers[order[i]].state == RUNNING)
                resume(&machine.fibers[order[i]]);
    } while (resolve_warp(machine.fibers + first, lanes));
}

static void abandon_block(const Fiber &stuck)
{
    int first = stuck.ids.warp * WARP;
    int missing = missing_lane(machine.fibers + first, std::min(WARP, machine.threads - first), stuck);
    report(0, "synccheck", "deadlock: thread %d waits at line %d for the lanes of mask %08x, lane %d does not come; block abandoned",
           stuck.ids.linear, stuck.line, stuck.mask, missing);
    for (int i = 0; i < machine.threads; i++)
        if (machine.fibers[i].state != DONE)
            abandon(&machine.fibers[i]);
}

// All threads stand at the barrier or are done.
static void complete_barrier()
{
    int line = 0, votes = 0, waiting = 0, done = 0;
    BarrierKind kind = BARRIER_PLAIN;
    for (int i = 0; i < machine.threads; i++) {
        Fiber &f = machine.fibers[i];
        if (f.state == DONE) {
            done++;
            continue;
        }
        if (line && f.line != line)
            report(0, "synccheck", "threads of one block wait at different barriers (lines %d and %d)", line, f.line);
        line = f.line;
        kind = f.barrier;
        waiting++;
        votes += f.predicate != 0;
        f.state = RUNNING;
    }
    barrier_answer = kind == BARRIER_COUNT ? votes : kind == BARRIER_AND ? votes == waiting : votes > 0;
    machine.counts.exited_before_barrier += done > 0;
    machine.counts.barriers++;
    machine.epoch++;
}

static void start_threads(dim3 block, uint3 index)
{
    for (int i = 0; i < machine.threads; i++) {
        Fiber &f = machine.fibers[i];
        unsigned t = static_cast<unsigned>(i);
        uint3 tid = {t % block.x, t / block.x % block.y, t / block.x / block.y};
        f.ids = Ids{tid, index, block, machine.config->grid, i % WARP, i / WARP, i};
        f.state = RUNNING;
        f.predicate = 0;
        f.warp_epoch = 0;
        f.copies.clear();
        f.copy_group = 0;
    }
    machine.epoch = 1;
}

void run_block(dim3 block, uint3 index)
{
    start_threads(block, index);
    int warps = (machine.threads + WARP - 1) / WARP, order[MAX_THREADS / WARP];
    for (;;) {
        put_in_order(order, 0, warps);
        for (int i = 0; i < warps; i++)
            run_warp(order[i]);
        int done = 0;
        for (int i = 0; i < machine.threads; i++) {
            if (machine.fibers[i].state == AT_WARP)
                return abandon_block(machine.fibers[i]);
            done += machine.fibers[i].state == DONE;
        }
        if (done == machine.threads)
            break;
        complete_barrier();
    }
    statistics_block();
}

} // namespace emu
