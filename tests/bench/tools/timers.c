#include "timers.h"

#include <stddef.h>

#include "common.h"

static void put(struct timers *timers, struct timer *timer, int place) {
    timers->heap[place - 1] = timer;
    timer->place = place;
}

static void rise(struct timers *timers, struct timer *timer) {
    int place = timer->place;
    for (; place > 1; place /= 2) {
        struct timer *parent = timers->heap[place / 2 - 1];
        if (parent->due_ns <= timer->due_ns) break;
        put(timers, parent, place);
    }
    put(timers, timer, place);
}

static void sink(struct timers *timers, struct timer *timer) {
    int place = timer->place;
    for (;;) {
        int child = 2 * place;
        if (child > timers->count) break;
        if (child < timers->count && timers->heap[child]->due_ns < timers->heap[child - 1]->due_ns) child++;
        if (timers->heap[child - 1]->due_ns >= timer->due_ns) break;
        put(timers, timers->heap[child - 1], place);
        place = child;
    }
    put(timers, timer, place);
}

void timers_add(struct timers *timers, struct timer *timer, uint64_t due_ns) {
    timer->due_ns = due_ns;
    if (timer->place > 0) {  // It is there already, for another time.
        rise(timers, timer);
        sink(timers, timer);
        return;
    }
    if (timers->count == timers->capacity) {
        timers->capacity = timers->capacity ? 2 * timers->capacity : 64;
        timers->heap = reallocate(timers->heap, (size_t)timers->capacity * sizeof *timers->heap);
    }
    put(timers, timer, ++timers->count);
    rise(timers, timer);
}

void timers_remove(struct timers *timers, struct timer *timer) {
    if (timer->place == 0) return;
    struct timer *last = timers->heap[--timers->count];
    if (last != timer) {
        put(timers, last, timer->place);
        rise(timers, last);
        sink(timers, last);
    }
    timer->place = 0;
}

struct timer *timers_first(const struct timers *timers) {
    return timers->count ? timers->heap[0] : NULL;
}

struct timespec time_until(uint64_t due_ns) {
    uint64_t now = now_ns(), left = due_ns > now ? due_ns - now : 0;
    return (struct timespec){.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
}
