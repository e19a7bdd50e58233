package main

import (
	"benchmarks/measure"
)

// Report is what the command prints. Whole run: what a topic is balanced against. Measured: after the warm-up.
type Report struct {
	Accepted   int64           `json:"accepted"`   // events answered 200, whole run
	Unknown    int64           `json:"unknown"`    // events sent whose answer never came, whole run
	Statuses   map[int]int64   `json:"statuses"`   // answers by status, whole run
	Broken     int64           `json:"broken"`     // requests whose connection ended before the answer, whole run
	Abandoned  int64           `json:"abandoned"`  // requests that found no free connection in time, whole run
	Seconds    float64         `json:"seconds"`    // measured
	Sent       float64         `json:"sent_rate"`  // requests per second, measured
	Rate       float64         `json:"rate"`       // events answered 200 per second, measured
	Latency    measure.Summary `json:"latency_ms"` // of requests answered 200, measured
	CPUSeconds float64         `json:"cpu_seconds"`
	Timeline   []Second        `json:"timeline"` // whole run
}

// Second is one second of the run.
type Second struct {
	Accepted int64 `json:"accepted"` // events
	Refused  int64 `json:"refused"`  // answers other than 200
}

// output counts what happens to requests. All times are nanoseconds of the monotonic clock.
type output struct {
	Report
	begin, measureFrom, end int64
	batch                   int64 // events in a request
	latency                 measure.Histogram
}

func newOutput(warm, seconds float64, batch int64) output {
	begin := measure.Now()
	from := begin + int64(warm*1e9)
	return output{
		begin: begin, measureFrom: from, end: from + int64(seconds*1e9), batch: batch,
		Report: Report{Statuses: map[int]int64{}, Seconds: seconds, Timeline: make([]Second, int(warm+seconds)+12)},
	}
}

func (o *output) answered(due, at int64, status int, body []byte) {
	o.Statuses[status]++
	second := &o.Timeline[min((at-o.begin)/1e9, int64(len(o.Timeline)-1))]
	if status != 200 {
		second.Refused++
		return
	}
	events := o.batch
	if events > 1 {
		events, _ = measure.Number(body, `"accepted":`)
	}
	o.Accepted += events
	second.Accepted += events
	if at >= o.measureFrom && at < o.end {
		o.Rate += float64(events)
	}
	if due >= o.measureFrom {
		o.latency.Add(at - due)
	}
}

// report is what there is to tell when so many requests are still unanswered.
func (o *output) report(unanswered int) Report {
	last := int((measure.Now() - o.begin) / 1e9)
	o.Unknown = (o.Broken + int64(unanswered)) * o.batch
	o.Sent, o.Rate = o.Sent/o.Seconds, o.Rate/o.Seconds
	o.Latency, o.CPUSeconds = o.latency.Summary(), measure.CPUSeconds()
	o.Timeline = o.Timeline[:min(last+1, len(o.Timeline))]
	return o.Report
}
