#include "histogram.h"

#include <math.h>

#define LINEAR (1 << HISTOGRAM_BITS)

// Small values have a bucket each; of larger ones the highest HISTOGRAM_BITS + 1 bits count.
static int bucket_of(uint64_t value) {
    if (value < LINEAR) return (int)value;
    int dropped = 63 - __builtin_clzll(value) - HISTOGRAM_BITS;
    return ((dropped + 1) << HISTOGRAM_BITS) + (int)((value >> dropped) - LINEAR);
}

static double middle_of(int bucket) {
    if (bucket < LINEAR) return bucket;
    int dropped = (bucket >> HISTOGRAM_BITS) - 1;
    double low = ldexp(LINEAR + (bucket & (LINEAR - 1)), dropped);
    return low + ldexp(1, dropped) / 2;
}

void histogram_add(struct histogram *histogram, int64_t duration_ns) {
    uint64_t value = duration_ns > 0 ? (uint64_t)duration_ns : 0;
    histogram->buckets[bucket_of(value)]++;
    histogram->count++;
    histogram->sum_ns += (double)value;
    if (value > histogram->max_ns) histogram->max_ns = value;
}

double histogram_quantile_s(const struct histogram *histogram, double quantile) {
    uint64_t wanted = (uint64_t)ceil(quantile * (double)histogram->count), seen = 0;
    if (histogram->count == 0) return 0;
    if (wanted == 0) wanted = 1;
    int bucket = 0;
    while ((seen += histogram->buckets[bucket]) < wanted) bucket++;
    return fmin(middle_of(bucket), (double)histogram->max_ns) / 1e9;
}

double histogram_mean_s(const struct histogram *histogram) {
    return histogram->count ? histogram->sum_ns / (double)histogram->count / 1e9 : 0;
}
