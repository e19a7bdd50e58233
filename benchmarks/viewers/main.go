// Command viewers opens event streams by the thousand, feeds micro-batches into Kafka, and prints, as one JSON object,
// what reached the viewers and when. Linux only.
//
// It feeds and reads in one process, so that one clock times a batch from before it is produced to the last viewer. It
// shares the machine with the server that it measures, so all streams are read by one thread with epoll.
//
// With -window a batch is produced as soon as fewer than that many are on their way: as many as the server can fan out,
// and no more, so that none has to be merged or dropped. All of them are on one partition, so that their order is nobody's
// to restore. With -every they come by the clock, however slow the server is, over three partitions.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"

	"benchmarks/measure"
)

// Report is what the command prints.
type Report struct {
	Viewers    int            `json:"viewers"`    // that had an open stream when measuring began
	Batches    int            `json:"batches"`    // produced
	Seconds    float64        `json:"seconds"`    // from the first batch until the last was produced
	Deliveries float64        `json:"deliveries"` // events that reached viewers, per second
	Merged     int            `json:"merged"`     // batches that came to a viewer within another's event
	Missing    int            `json:"missing"`    // batches × viewers that never came, though their viewer stayed
	Repeated   int            `json:"repeated"`   // events that a viewer had got already
	Gaps       int            `json:"gaps"`       // events after which a viewer had missed a batch
	Refused    map[string]int `json:"refused"`    // answers other than 200, by status line
	Closed     int            `json:"closed"`     // streams that the server ended
	CPUSeconds float64        `json:"cpu_seconds"`
	// Before, with and after the guests, without whom there is only before; "any_ms" is from produce to each viewer, and
	// "last_ms" to the last one.
	Phases     map[string]map[string]measure.Summary `json:"phases"`
	GuestsOpen int                                   `json:"guests_open"` // guests that had an open stream when all left
}

type crowd struct {
	poll      *measure.Poll[viewer]
	feed      *feed
	port      int
	path      string
	listening int // rooms that the viewers are spread over
	scratch   []byte
	opened    int // streams that were asked for, guests included
	staying   int // viewers with an open stream
	guests    []*viewer
	guestsOn  int
	refused   int
	greeted   int // viewers that got a batch since they came
	report    Report
	measured  int // index of the first batch that is measured; -1: none yet
	delivered int
}

func main() {
	port := flag.Int("port", 7101, "the server's port on 127.0.0.1")
	path := flag.String("path", "/stream", "path and query of a stream")
	viewers := flag.Int("viewers", 5000, "streams")
	ramp := flag.Float64("ramp", 2500, "streams opened per second")
	brokers := flag.String("brokers", "localhost:9092", "comma-separated")
	topic := flag.String("topic", "cluster1-emoji-topic", "topic that the server reads")
	emojis := flag.Int("emojis", 5, "records in a batch")
	rooms := flag.Int("rooms", 0, "rooms with records in each batch; 0: the default room")
	listening := flag.Int("listening", 0, "the first so many rooms are those that the viewers are spread over")
	window := flag.Int("window", 4, "batches on their way at once")
	every := flag.Duration("every", 0, "produce a batch so often instead")
	seconds := flag.Float64("seconds", 20, "how long to measure; with guests: before, with and after them, each")
	guests := flag.Int("guests", 0, "streams that are opened besides within those seconds, and then leave at once")
	flag.Parse()

	runtime.LockOSThread()
	c := &crowd{
		poll: measure.New[viewer](), feed: newFeed(strings.Split(*brokers, ","), *topic, *emojis, *rooms, *every > 0), port: *port, scratch: make([]byte, 256*1024),
		path: *path, listening: *listening,
		measured: -1,
		report:   Report{Refused: map[string]int{}, Phases: map[string]map[string]measure.Summary{}},
	}
	c.open(*viewers, *ramp, false, func() {})
	for deadline := measure.Now() + 30e9; c.staying+c.refused < *viewers; c.wait(deadline) {
		if measure.Now() >= deadline {
			log.Fatalf("not every stream opened in 30 s: %d did; refused %v, closed %d", c.staying, c.report.Refused, c.report.Closed)
		}
	}
	for c.greeted < c.staying { // subscribed is a little later than open
		c.feed.produce(0)
		c.run(measure.Now()+500e6, func() {})
	}
	c.run(measure.Now()+1e9, func() {})
	c.report.Viewers, c.measured = c.staying, len(c.feed.batches)
	fmt.Fprintln(os.Stderr, "open")

	next := measure.Now()
	step := func() {
		if t := measure.Now(); *every > 0 && t >= next {
			c.feed.produce(c.staying)
			next += every.Nanoseconds()
		} else if *every == 0 && c.feed.underWay < *window {
			c.feed.produce(c.staying)
		}
	}
	begin, span := measure.Now(), int64(*seconds*1e9)
	c.run(begin+span, step)
	if *guests > 0 {
		c.phase("before")
		c.open(*guests, float64(*guests)/(*seconds), true, step)
		c.run(begin+2*span, step)
		c.report.GuestsOpen = c.guestsOn
		c.leave()
		c.phase("with")
		c.run(begin+3*span, step)
	}
	c.report.Seconds = float64(measure.Now()-begin) / 1e9
	c.report.Deliveries = float64(c.delivered) / c.report.Seconds
	for deadline := measure.Now() + 10e9; c.feed.underWay > 0 && measure.Now() < deadline; {
		c.wait(deadline)
	}
	c.phase(map[bool]string{false: "before", true: "after"}[*guests > 0])
	c.report.Batches, c.report.Missing, c.report.CPUSeconds = len(c.feed.batches)-c.measured, c.feed.missing(), measure.CPUSeconds()
	measure.Check(json.NewEncoder(os.Stdout).Encode(c.report))
}

// run does what there is to do until a time.
func (c *crowd) run(end int64, step func()) {
	for measure.Now() < end {
		step()
		c.wait(min(end, measure.Now()+5e6))
	}
}

// phase ends one part of the run and begins the next.
func (c *crowd) phase(name string) {
	c.report.Phases[name] = map[string]measure.Summary{"any_ms": c.feed.any.Summary(), "last_ms": c.feed.last.Summary()}
	c.feed.any, c.feed.last = measure.Histogram{}, measure.Histogram{}
}
