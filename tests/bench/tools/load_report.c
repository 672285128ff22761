#include <stdio.h>
#include <sys/resource.h>

#include "load.h"

#define POINTS 100  // Of a distribution's curve.

static void print_quantiles(const char *name, const struct histogram *histogram) {
    printf(",\"%s\":{\"count\":%llu,\"mean\":%.9f", name, (unsigned long long)histogram->count, histogram_mean_s(histogram));
    printf(",\"p50\":%.9f,\"p90\":%.9f,\"p99\":%.9f,\"p999\":%.9f,\"max\":%.9f", histogram_quantile_s(histogram, 0.5),
           histogram_quantile_s(histogram, 0.9), histogram_quantile_s(histogram, 0.99),
           histogram_quantile_s(histogram, 0.999), (double)histogram->max_ns / 1e9);
    printf(",\"cdf\":[");
    for (int point = 1; point <= POINTS && histogram->count; point++) {
        double quantile = (double)point / POINTS;
        printf("%s[%.2f,%.9f]", point > 1 ? "," : "", quantile, histogram_quantile_s(histogram, quantile));
    }
    printf("]}");
}

// The other side's words, as far as they are plain text.
static void print_text(const char *text) {
    putchar('"');
    for (; *text; text++) putchar(*text < ' ' || *text > '~' || *text == '"' || *text == '\\' ? ' ' : *text);
    putchar('"');
}

static void print_failures(void) {
    printf(",\"failed\":%llu,\"failures\":{", (unsigned long long)totals.failed);
    for (int index = 0; index < REASONS_MAX && totals.failures[index].count; index++) {
        printf("%s", index ? "," : "");
        print_text(totals.failures[index].reason);
        printf(":%llu", (unsigned long long)totals.failures[index].count);
    }
    printf("},\"first_failure\":");
    print_text(totals.first_failure);
}

static double seconds(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec / 1e6; }

// Tokens that came while the load was on and warm, by that time.
static double tokens_per_s(void) {
    uint64_t until_ns = totals.end_ns < totals.issue_until_ns ? totals.end_ns : totals.issue_until_ns;
    if (until_ns <= totals.sampled_from_ns) return 0;
    return (double)totals.tokens_in_window / ((double)(until_ns - totals.sampled_from_ns) / 1e9);
}

void report(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"protocol\":\"%s\"", PROTOCOL_NAMES[options.protocol]);
    printf(",\"issued\":%llu,\"completed\":%llu,\"cancelled\":%llu,\"unfinished\":%llu",
           (unsigned long long)totals.issued, (unsigned long long)totals.completed,
           (unsigned long long)totals.cancelled, (unsigned long long)totals.active);
    print_failures();
    printf(",\"wall_s\":%.6f,\"cpu_s\":%.6f", (double)(totals.end_ns - totals.start_ns) / 1e9,
           seconds(usage.ru_utime) + seconds(usage.ru_stime));
    printf(",\"messages\":%llu,\"tokens\":%llu,\"bytes\":%llu,\"tokens_per_s\":%.1f", (unsigned long long)totals.messages,
           (unsigned long long)totals.tokens, (unsigned long long)totals.bytes, tokens_per_s());
    print_quantiles("lateness_s", &totals.lateness);
    print_quantiles("first_token_s", &totals.first_token);
    print_quantiles("token_way_s", &totals.token_way);
    print_quantiles("interval_s", &totals.interval);
    print_quantiles("total_s", &totals.total);
    printf("}\n");
}
