// The load generator: streams by gRPC, gRPC-Web, NDJSON or SSE, at intended times or so many at once.
//
// Open loop (--rate): arrivals are a Poisson process of the seed, and go out at their times whatever has become of the
// earlier ones. Latencies count from the intended time, so that a server cannot improve them by delaying the load.
// Closed loop (--concurrency): so many streams at any time. A stream that fails is followed by the next only after a
// pause, or a server that refuses would be asked as fast as it can refuse.
//
// One JSON object on stdout tells what has come of it. Everything runs in one thread.
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

#define HEAD_START_NS (2 * 1000 * NS_PER_US)
#define PAUSE_NS (10 * 1000 * NS_PER_US)

struct totals totals;
static struct timers turns;
static void (*send_request)(struct stream *stream);

// ---- Chance, by splitmix64: one sequence for arrivals and one for cancelling, so that neither moves the other.

static struct {
    uint64_t arrivals, cancels;
} chance;

static double random_share(uint64_t *state) {
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)((value ^ (value >> 31)) >> 11) / 9007199254740992.0;
}

static uint64_t gap_ns(void) { return (uint64_t)(-log(1 - random_share(&chance.arrivals)) / options.rate * 1e9); }

// After how many tokens the next stream is cancelled; 0: it is not.
static uint64_t next_cancel(void) {
    bool cancels = random_share(&chance.cancels) < options.cancel_share;
    double place = random_share(&chance.cancels);
    return cancels ? 1 + (uint64_t)(place * (double)(options.expect_tokens - 1)) : 0;
}

// ---- Turns: a timer for each stream of a closed loop, one for all arrivals of an open one

static bool is_open_loop(void) { return options.rate > 0; }

static bool may_issue(uint64_t at_ns) { return at_ns < totals.issue_until_ns && totals.issued < options.count; }

static void add_turn(struct timer *turn, uint64_t at_ns) {
    if (may_issue(at_ns)) timers_add(&turns, turn, at_ns);
}

void slot_done(struct timer *slot, bool failed) {
    if (!is_open_loop()) add_turn(slot, now_ns() + (failed ? PAUSE_NS : 0));
}

static void add_turns(void) {
    int count = is_open_loop() ? 1 : options.concurrency;
    struct timer *all = allocate((size_t)count * sizeof *all);
    for (int index = 0; index < count; index++)
        add_turn(&all[index], totals.start_ns + (is_open_loop() ? gap_ns() : (uint64_t)(options.stagger_s * 1e9 * index / count)));
}

static void take_turn(struct timer *turn) {
    timers_remove(&turns, turn);
    if (!may_issue(turn->due_ns)) return;
    struct stream *stream = stream_new(turn, options.number_from + totals.issued, next_cancel());
    if (is_open_loop()) add_turn(turn, turn->due_ns + gap_ns());
    send_request(stream);
}

static void take_turns(uint64_t now) {
    struct timer *turn;
    while ((turn = timers_first(&turns)) && turn->due_ns <= now) take_turn(turn);
}

// ---- The run

static void set_times(void) {
    totals.start_ns = now_ns() + HEAD_START_NS;
    totals.sampled_from_ns = totals.start_ns + (uint64_t)(options.warm_up_s * 1e9);
    totals.issue_until_ns = totals.start_ns + (uint64_t)(options.seconds * 1e9);
}

static uint64_t earlier(uint64_t one, uint64_t other) { return one < other ? one : other; }

static void run(void) {
    uint64_t give_up_ns = totals.issue_until_ns + (uint64_t)(options.drain_s * 1e9);
    for (;;) {
        take_turns(now_ns());
        uint64_t until_ns = earlier(http2_retry(now_ns()), give_up_ns);
        struct timer *next = timers_first(&turns);
        if ((!next && totals.active == 0) || now_ns() >= give_up_ns) break;
        channels_wait(next ? earlier(next->due_ns, until_ns) : until_ns);
    }
    totals.end_ns = now_ns();
}

// Print when streams would start and which would be cancelled, and send nothing.
static void rehearse(void) {
    uint64_t at_ns = 0, until_ns = (uint64_t)(options.seconds * 1e9);
    printf("{\"plan\":[");
    for (uint64_t number = 0; number < options.count; number++) {
        if (is_open_loop())
            at_ns += gap_ns();
        else if (number < (uint64_t)options.concurrency)
            at_ns = (uint64_t)(options.stagger_s * 1e9 * (double)number / options.concurrency);
        else
            break;
        if (at_ns >= until_ns) break;
        printf("%s[%.9f,%llu]", number ? "," : "", (double)at_ns / 1e9, (unsigned long long)next_cancel());
    }
    printf("]}\n");
}

int main(int count, char **arguments) {
    options_read(count, arguments);
    chance.arrivals = options.seed;
    chance.cancels = ~options.seed;
    if (options.dry_run) {
        rehearse();
        return 0;
    }
    signal(SIGPIPE, SIG_IGN);
    allow_many_files();
    be_punctual();
    channels_open();
    request_prepare();
    bool is_http2 = options.protocol == GRPC;
    send_request = is_http2 ? http2_send : http1_send;
    set_times();
    (is_http2 ? http2_open : http1_open)();
    set_times();  // Shaking hands may have taken a while.
    add_turns();
    run();
    report();
    return 0;
}
