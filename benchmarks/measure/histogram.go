package measure

import "math/bits"

// Histogram counts durations in nanoseconds, in buckets at most 1.6 % wide.
type Histogram struct {
	buckets [64 * 64]int64
	n, max  int64
}

// Summary is a histogram's percentiles in milliseconds.
type Summary struct {
	N   int64   `json:"n"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Add counts one duration.
func (h *Histogram) Add(nanoseconds int64) {
	nanoseconds = max(nanoseconds, 0)
	h.n++
	h.max = max(h.max, nanoseconds)
	shift := max(bits.Len64(uint64(nanoseconds))-7, 0)
	h.buckets[min(shift<<6+int(nanoseconds>>shift), len(h.buckets)-1)]++
}

// percentile is the upper end of the bucket that holds it, in milliseconds.
func (h *Histogram) percentile(percent int64) float64 {
	rank := (h.n*percent + 99) / 100
	for bucket, n := range h.buckets {
		if rank -= n; n > 0 && rank <= 0 {
			shift := max(bucket>>6-1, 0)
			upper := int64(bucket-shift<<6+1) << shift
			return float64(min(upper, h.max)) / 1e6
		}
	}
	return float64(h.max) / 1e6
}

// Summary of what has been counted so far.
func (h *Histogram) Summary() Summary {
	return Summary{h.n, h.percentile(50), h.percentile(90), h.percentile(99), float64(h.max) / 1e6}
}
