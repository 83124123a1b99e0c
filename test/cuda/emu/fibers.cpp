// fibers.cpp: a stack for each thread of a block, and the switch between them and the scheduler.
//
// A fiber is born by makecontext and from then on switched by the compiler's own setjmp and longjmp, which keep a place, a frame and a stack pointer
// (glibc's keep more and look for cleanups; swapcontext makes two system calls).  When a kernel's body returns its fiber waits at the top of a loop for
// the next block.
#include "emu.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

namespace emu {

Machine machine;

static const size_t STACK_BYTES = 128 * KB, SHIFT = 17 * 64, SHIFTS = 60; // stacks begin at different places of the caches
static char *stacks;
static Place scheduler;

const Ids *ids()
{
    return &machine.current->ids;
}

void fibers_init()
{
    stacks = static_cast<char *>(reserve(STACK_BYTES * MAX_THREADS));
    machine.fibers = new Fiber[MAX_THREADS]();
    for (int i = 0; i < MAX_THREADS; i++) {
        machine.fibers[i].stack = stacks + static_cast<size_t>(i) * STACK_BYTES;
        mprotect(machine.fibers[i].stack, 4096, PROT_NONE); // a stack that overflows faults
    }
}

bool on_fiber_stack(const void *p)
{
    const char *c = static_cast<const char *>(p);
    return c >= stacks && c < stacks + STACK_BYTES * MAX_THREADS;
}

static void fiber_main()
{
    for (;;) {
        machine.body(machine.arguments);
        machine.current->state = DONE;
        yield();
    }
}

// A function of its own: the compiler takes a jump for one that never comes back to where it stands.
[[noreturn]] __attribute__((noipa)) static void jump(Place to)
{
    __builtin_longjmp(to, 1);
}

void yield()
{
    if (!__builtin_setjmp(machine.current->context))
        jump(scheduler);
}

void resume(Fiber *fiber)
{
    machine.current = fiber;
    if (!__builtin_setjmp(scheduler)) {
        if (machine.current->started)
            jump(machine.current->context);
        machine.current->started = true;
        ucontext_t birth;
        getcontext(&birth);
        birth.uc_stack.ss_sp = machine.current->stack;
        birth.uc_stack.ss_size = STACK_BYTES - static_cast<size_t>(fiber - machine.fibers) % SHIFTS * SHIFT;
        birth.uc_link = nullptr;
        makecontext(&birth, fiber_main, 0);
        setcontext(&birth);
    }
    machine.current = nullptr;
}

void abandon(Fiber *fiber)
{
    fiber->started = false;
    fiber->state = DONE;
}

} // namespace emu
