// Durations, counted in log-linear buckets: 128 to each doubling, so that a value is known to 0.4 %.
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 7
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS], count, max_ns;
    double sum_ns;
};

// A duration below nothing counts as nothing.
void histogram_add(struct histogram *histogram, int64_t duration_ns);
// In seconds; 0 when there are none.
double histogram_quantile_s(const struct histogram *histogram, double quantile);
double histogram_mean_s(const struct histogram *histogram);

#endif
