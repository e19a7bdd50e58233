// Command load sends taps to an ingest server and prints, as one JSON object, what came of them. Linux only.
//
// It shares the machine with what it measures, so it must cost little: one thread, epoll, and requests that are
// encoded before the clock starts. Without -rate it is a closed loop: every connection sends again as soon as it was
// answered. With -rate it is an open loop: a request is due every 1/rate s whether or not earlier ones were answered,
// and its latency counts from when it was due, waiting for a free connection included. A request that found no
// connection for -patience is abandoned, as a phone would.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"benchmarks/measure"
)

type generator struct {
	out      output
	idle     []*connection // open, without a request
	requests [][]byte
	next     int // request to send
	pending  int // connections with a request under way
	port     int
	poll     *measure.Poll[connection]
	retries  []retry
}

type retry struct {
	at int64
	c  *connection
}

func main() {
	port := flag.Int("port", 5000, "port on 127.0.0.1")
	connections := flag.Int("connections", 64, "kept-alive connections")
	seconds := flag.Float64("seconds", 10, "how long to measure")
	warm := flag.Float64("warm", 2, "seconds before that, not measured")
	rate := flag.Float64("rate", 0, "open loop: requests per second; 0: closed loop")
	patience := flag.Duration("patience", time.Second, "open loop: how long a request waits for a connection")
	batch := flag.Int("batch", 0, "events in a request to /send-emojis; 0: single ones to /send-emoji")
	ndjson := flag.Bool("ndjson", false, "with -batch: one event a line instead of an array")
	flag.Parse()

	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	g := &generator{requests: encodeRequests(*batch, *ndjson), port: *port, poll: measure.New[connection]()}
	g.out = newOutput(*warm, *seconds, max(int64(*batch), 1))
	for range *connections {
		g.connect(&connection{})
	}
	if *rate > 0 {
		g.openLoop(*rate, patience.Nanoseconds())
	} else {
		g.closedLoop()
	}
	g.drain(10e9)
	measure.Check(json.NewEncoder(os.Stdout).Encode(g.out.report(g.pending)))
}

func (g *generator) closedLoop() {
	for t := measure.Now(); t < g.out.end; t = measure.Now() {
		for len(g.idle) > 0 {
			g.send(t)
		}
		g.wait(min(g.out.end-t, 100e6))
	}
}

func (g *generator) openLoop(rate float64, patience int64) {
	due := func(number int64) int64 { return g.out.begin + int64(float64(number)/rate*1e9) }
	for number, t := int64(0), measure.Now(); due(number) < g.out.end; t = measure.Now() {
		for ; due(number) < min(t-patience, g.out.end); number++ {
			g.out.Abandoned++
		}
		for ; len(g.idle) > 0 && due(number) <= t && due(number) < g.out.end; number++ {
			g.send(due(number))
		}
		if len(g.idle) > 0 {
			g.wait(max(due(number)-measure.Now(), 0))
		} else {
			g.wait(100e6)
		}
	}
}

// drain waits for answers to what was sent, at most so many nanoseconds.
func (g *generator) drain(timeout int64) {
	for deadline := measure.Now() + timeout; g.pending > 0 && measure.Now() < deadline; {
		g.wait(100e6)
	}
}

// send gives the next request to an idle connection; its latency counts from `due`.
func (g *generator) send(due int64) {
	// At random: always the last one would keep a few connections, and so a few workers of the server, busy.
	last := len(g.idle) - 1
	chosen := rand.IntN(last + 1)
	c := g.idle[chosen]
	g.idle[chosen] = g.idle[last]
	g.idle = g.idle[:last]
	c.due, c.unsent = due, g.requests[g.next]
	g.next = (g.next + 1) % len(g.requests)
	g.pending++
	if measure.Now() >= g.out.measureFrom {
		g.out.Sent++
	}
	g.flush(c)
}

// wait handles what happens on the connections; returns at once when anything did, else after `timeout` nanoseconds.
func (g *generator) wait(timeout int64) {
	for len(g.retries) > 0 && g.retries[0].at <= measure.Now() {
		g.connect(g.retries[0].c)
		g.retries = g.retries[1:]
	}
	g.poll.Wait(timeout, g.handle)
}

// encodeRequests makes whole HTTP requests, enough different ones that users and emojis vary.
func encodeRequests(batch int, ndjson bool) [][]byte {
	emojis := []string{"😊", "🔥", "❤️", "😂", "👏"}
	stamp := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	event := func(n int) []byte {
		return fmt.Appendf(nil, `{"user_id":"user-%d","emoji_type":"%s","timestamp":"%s"}`, n, emojis[n%len(emojis)], stamp)
	}
	var requests [][]byte
	for r := range 1000 / max(1, batch/32) {
		path, kind, body := "/send-emoji", "application/json", event(r)
		if batch > 0 {
			var events [][]byte
			for n := range batch {
				events = append(events, event(r*batch+n))
			}
			path, body = "/send-emojis", fmt.Appendf(nil, "[%s]", bytes.Join(events, []byte(",")))
			if ndjson {
				kind, body = "application/x-ndjson", append(bytes.Join(events, []byte("\n")), '\n')
			}
		}
		head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", path, kind, len(body))
		requests = append(requests, append(head, body...))
	}
	return requests
}
