package main

import (
	"bytes"
	"math/bits"
	"strconv"
	"syscall"
)

// output counts what happens to requests. All times are nanoseconds of the monotonic clock.
type output struct {
	begin, measureFrom, end     int64
	batch                       int64
	accepted, broken, abandoned int64
	statuses                    map[int]int64
	sentMeasured, okMeasured    int64
	latency, refusal            histogram
	timeline                    []Second
}

func newOutput(begin, warm, measured, batch int64) output {
	return output{
		begin: begin, measureFrom: begin + warm, end: begin + warm + measured, batch: batch, statuses: map[int]int64{},
		timeline: make([]Second, (warm+measured)/1e9+12),
	}
}

func (o *output) sent(at int64) {
	if at >= o.measureFrom {
		o.sentMeasured++
	}
}

func (o *output) broke() { o.broken++ }

func (o *output) answered(due, at int64, status int, body []byte) {
	o.statuses[status]++
	second := &o.timeline[min((at-o.begin)/1e9, int64(len(o.timeline)-1))]
	measured := due >= o.measureFrom
	if status != 200 {
		second.Refused++
		if measured {
			o.refusal.add(at - due)
		}
		return
	}
	events := o.batch
	if events > 1 {
		events = acceptedIn(body)
	}
	o.accepted += events
	second.Accepted += events
	if at >= o.measureFrom && at < o.end {
		o.okMeasured += events
	}
	if measured {
		o.latency.add(at - due)
	}
}

func (o *output) report(unanswered int) Report {
	seconds := float64(o.end-o.measureFrom) / 1e9
	statuses := map[string]int64{}
	for status, n := range o.statuses {
		statuses[strconv.Itoa(status)] = n
	}
	last := int((now() - o.begin) / 1e9)
	return Report{
		Accepted: o.accepted, Unknown: (o.broken + int64(unanswered)) * o.batch, Statuses: statuses, Broken: o.broken,
		Abandoned: o.abandoned, Seconds: seconds, Sent: float64(o.sentMeasured) / seconds,
		Rate: float64(o.okMeasured) / seconds, Latency: o.latency.summary(), Refusal: o.refusal.summary(),
		CPUSeconds: cpuSeconds(), Timeline: o.timeline[:min(last+1, len(o.timeline))],
	}
}

// acceptedIn is n of {"status":"success","accepted":n,...}; 0 where an answer does not say.
func acceptedIn(body []byte) (n int64) {
	_, rest, _ := bytes.Cut(body, []byte(`"accepted":`))
	for _, digit := range bytes.TrimLeft(rest, " ") {
		if digit < '0' || digit > '9' {
			break
		}
		n = 10*n + int64(digit-'0')
	}
	return n
}

// histogram counts durations in buckets at most 1.6 % wide.
type histogram struct {
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

func (h *histogram) add(nanoseconds int64) {
	nanoseconds = max(nanoseconds, 0)
	h.n++
	h.max = max(h.max, nanoseconds)
	shift := max(bits.Len64(uint64(nanoseconds))-7, 0)
	h.buckets[min(shift<<6+int(nanoseconds>>shift), len(h.buckets)-1)]++
}

// percentile is the upper end of the bucket that holds it, in milliseconds.
func (h *histogram) percentile(percent float64) float64 {
	rank := int64(float64(h.n) * percent / 100)
	for bucket, n := range h.buckets {
		if rank -= n; rank < 0 {
			shift := max(bucket>>6-1, 0)
			upper := int64(bucket-shift<<6+1) << shift
			return float64(min(upper, h.max)) / 1e6
		}
	}
	return float64(h.max) / 1e6
}

func (h *histogram) summary() Summary {
	return Summary{h.n, h.percentile(50), h.percentile(90), h.percentile(99), float64(h.max) / 1e6}
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
