// What is due, earliest first: a binary heap of timers that live inside what they belong to.
#ifndef TIMERS_H
#define TIMERS_H

#include <stdint.h>
#include <time.h>

struct timer {
    uint64_t due_ns;
    int place;  // In the heap, from 1; 0: not in it.
};

struct timers {
    struct timer **heap;
    int count, capacity;
};

void timers_add(struct timers *timers, struct timer *timer, uint64_t due_ns);
void timers_remove(struct timers *timers, struct timer *timer);
// The earliest, or NULL.
struct timer *timers_first(const struct timers *timers);
// How long from now until `due_ns`; nothing if it is past.
struct timespec time_until(uint64_t due_ns);

#endif
