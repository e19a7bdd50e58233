package measure

import (
	"math"
	"testing"
)

func TestPercentilesOfEveryMicrosecondOfASecond(t *testing.T) {
	var h Histogram
	for n := int64(1); n <= 1e6; n++ {
		h.Add(n * 1000)
	}
	for percent, wanted := range map[int64]float64{50: 500, 90: 900, 99: 990} {
		if got := h.percentile(percent); math.Abs(got-wanted)/wanted > 0.016 {
			t.Errorf("percentile %d: expected %g ms, got %g", percent, wanted, got)
		}
	}
	if s := h.Summary(); s.N != 1e6 || s.Max != 1000 {
		t.Errorf("expected 1,000,000 durations up to 1,000 ms, got %+v", s)
	}
}

func TestOneSlowOfHundredIsTheMaximumButNotTheNinetyNinth(t *testing.T) {
	var h Histogram
	for range 99 {
		h.Add(1e6)
	}
	h.Add(1e9)
	if s := h.Summary(); s.P99 > 1.02 || s.Max != 1000 {
		t.Errorf("expected p99 1 ms and max 1,000 ms, got %+v", s)
	}
}
