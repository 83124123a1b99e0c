// fibers.cpp: a stack for each thread of a block, and the switch between them and the scheduler.
//
// A fiber is born by makecontext and from then on switched by _setjmp and _longjmp, which make no system call (10 ns; swapcontext, which saves
// the signal mask, takes 260).  When a kernel's body returns its fiber waits at the top of a loop for the next block.
#include "emu.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

namespace emu {

Machine machine;

static const size_t STACK_BYTES = 128 * KB;
static char *stacks;
static jmp_buf scheduler;

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

void yield()
{
    if (!_setjmp(machine.current->context))
        _longjmp(scheduler, 1);
}

void resume(Fiber *fiber)
{
    machine.current = fiber;
    if (!_setjmp(scheduler)) {
        if (machine.current->started)
            _longjmp(machine.current->context, 1);
        machine.current->started = true;
        ucontext_t birth;
        getcontext(&birth);
        birth.uc_stack.ss_sp = machine.current->stack;
        birth.uc_stack.ss_size = STACK_BYTES;
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
