// Command pollers is a crowd that asks for /pulse.json as <emo-reactions> does, each poller every 2 s, at moments of its
// own. It notes when each first has an emoji whose name is "tap-" and when it was tapped, in Unix ms. Pollers take turns
// on connections: there are as many requests as of the crowd, but fewer open files. Linux only.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"benchmarks/measure"
)

type connection struct {
	fd     int
	due    int64   // when the next one asks
	newest []int64 // tap that each of its pollers has; the first one asks next
	asking bool
	answer []byte // so far
}

type tap struct{ made, counted int64 } // Unix milliseconds

func main() {
	port, pollers := flag.Int("port", 80, "of what is asked"), flag.Int("pollers", 20000, "how many")
	share, seconds := flag.Int("share", 10, "how many share a connection"), flag.Float64("seconds", 30, "how long")
	flag.Parse()
	every := 2e9 / float64(*share)
	poll, connections := measure.New[connection](), make([]connection, *pollers / *share)
	for n := range connections {
		c := &connections[n]
		c.fd = poll.Dial(c, byte(1+n%8), *port)
		c.newest, c.due = slices.Repeat([]int64{time.Now().UnixMilli()}, *share), int64(1e9+rand.Float64()*every)
	}
	var delays, ages measure.Histogram
	var received int
	var scratch [65536]byte
	statuses, known := map[string]int{}, map[string][]tap{} // ETag → the taps in that answer
	handle := func(c *connection, _ uint32) {
		for n, _ := syscall.Read(c.fd, scratch[:]); n > 0; n, _ = syscall.Read(c.fd, scratch[:]) {
			c.answer = append(c.answer, scratch[:n]...)
		}
		head, body, whole := bytes.Cut(c.answer, []byte("\r\n\r\n"))
		head = bytes.ToLower(head)
		if length, _ := measure.Number(head, "content-length:"); !whole || int64(len(body)) < length {
			return
		}
		statuses[string(head[9:12])]++
		received += len(c.answer)
		_, tag, _ := bytes.Cut(head, []byte("etag: "))
		tag, _, _ = bytes.Cut(tag, []byte("\r\n"))
		if _, seen := known[string(tag)]; !seen {
			known[string(tag)] = tapsIn(body)
		}
		newest := c.newest[0]
		for _, t := range known[string(tag)] {
			if t.made > c.newest[0] {
				delays.Add(time.Now().UnixNano() - t.made*1e6)
				ages.Add(time.Now().UnixNano() - t.counted*1e6)
				newest = max(newest, t.made)
			}
		}
		c.newest, c.asking, c.answer = append(c.newest[1:], newest), false, c.answer[:0]
	}
	for now, end := measure.Now(), int64(*seconds*1e9); now < end; now = measure.Now() {
		poll.Wait(1e6, handle)
		for n := range connections {
			if c := &connections[n]; !c.asking && c.due < now {
				_, err := syscall.Write(c.fd, []byte("GET /pulse.json HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"))
				if err == syscall.EAGAIN { // not connected yet
					continue
				}
				measure.Check(err)
				c.asking, c.due = true, c.due+int64(every*(0.9+0.2*rand.Float64()))
			}
		}
	}
	measure.Check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"statuses": statuses, "bytes": received, "delay_ms": delays.Summary(), "age_ms": ages.Summary(),
	}))
}

// tapsIn is the taps of an answer.
func tapsIn(body []byte) (taps []tap) {
	if unzip, err := gzip.NewReader(bytes.NewReader(body)); err == nil {
		body, err = io.ReadAll(unzip)
		measure.Check(err)
	}
	for _, batch := range bytes.Split(body, []byte(`"batched_ms":`))[1:] {
		counted, _ := measure.Number(batch, "")
		for _, part := range bytes.Split(batch, []byte(`"emoji":"tap-`))[1:] {
			made, _ := measure.Number(part, "")
			taps = append(taps, tap{made, counted})
		}
	}
	return taps
}
