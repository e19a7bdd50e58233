package main

import (
	"bytes"
	"strconv"

	"benchmarks/histogram"
	"benchmarks/poll"
)

// output counts what happens to requests. All times are nanoseconds of the monotonic clock.
type output struct {
	begin, measureFrom, end     int64
	batch                       int64
	accepted, broken, abandoned int64
	statuses                    map[int]int64
	sentMeasured, okMeasured    int64
	latency, refusal            histogram.Histogram
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
			o.refusal.Add(at - due)
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
		o.latency.Add(at - due)
	}
}

func (o *output) report(unanswered int) Report {
	seconds := float64(o.end-o.measureFrom) / 1e9
	statuses := map[string]int64{}
	for status, n := range o.statuses {
		statuses[strconv.Itoa(status)] = n
	}
	last := int((poll.Now() - o.begin) / 1e9)
	return Report{
		Accepted: o.accepted, Unknown: (o.broken + int64(unanswered)) * o.batch, Statuses: statuses, Broken: o.broken,
		Abandoned: o.abandoned, Seconds: seconds, Sent: float64(o.sentMeasured) / seconds,
		Rate: float64(o.okMeasured) / seconds, Latency: o.latency.Summary(), Refusal: o.refusal.Summary(),
		CPUSeconds: poll.CPUSeconds(), Timeline: o.timeline[:min(last+1, len(o.timeline))],
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
