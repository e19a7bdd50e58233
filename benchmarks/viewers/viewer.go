package main

import (
	"bytes"
	"strconv"
	"syscall"

	"benchmarks/measure"
)

const sources = 8 // addresses 127.0.0.1 to 127.0.0.8 to connect from, so that ports do not run out

// viewer is one stream.
type viewer struct {
	fd      int
	number  int
	guest   bool
	asked   bool
	open    bool
	ended   bool
	chunked bool
	chunk   int    // bytes left of the chunk, its line end included
	head    []byte // of the answer or of a chunk, while not all of it has come
	event   []byte // beginning of an event, of which the end has not come
	last    int    // newest batch that it has; -1: none yet
}

// open opens streams at a steady pace, and reads the others meanwhile.
func (c *crowd) open(streams int, perSecond float64, guest bool, step func()) {
	begin := measure.Now()
	for n := range streams {
		due := begin + int64(float64(n)/perSecond*1e9)
		for measure.Now() < due {
			step()
			c.wait(min(due, measure.Now()+5e6))
		}
		v := &viewer{number: c.opened, guest: guest, last: -1}
		v.fd = c.poll.Dial(v, byte(1+c.opened%sources), c.port)
		c.opened++
		if guest {
			c.guests = append(c.guests, v)
		}
		if n%64 == 0 {
			step()
			c.wait(0)
		}
	}
}

// leave closes all guests at once.
func (c *crowd) leave() {
	for _, v := range c.guests {
		if !v.ended {
			c.poll.Close(v.fd)
		}
	}
	c.guests, c.guestsOn = nil, 0
}

// wait reads what has come; returns at once when anything has, else at `until`.
func (c *crowd) wait(until int64) {
	c.poll.Wait(until-measure.Now(), func(v *viewer, events uint32) {
		if !v.asked && events&syscall.EPOLLOUT != 0 {
			v.asked = true
			path := c.path
			if c.listening > 0 {
				path += "?room=" + roomOf(v.number%c.listening)
			}
			request := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
			_, _ = syscall.Write(v.fd, []byte(request)) // a failure comes as an event
		}
		if events&measure.Readable != 0 {
			c.read(v)
		}
	})
}

func (c *crowd) read(v *viewer) {
	for {
		n, err := syscall.Read(v.fd, c.scratch)
		if err == syscall.EAGAIN {
			return
		}
		if err != nil || n <= 0 || !c.take(v, c.scratch[:n]) {
			c.end(v)
			return
		}
		if n < len(c.scratch) {
			return
		}
	}
}

func (c *crowd) end(v *viewer) {
	c.poll.Close(v.fd)
	v.ended = true
	c.report.Closed++
	if v.open && v.guest {
		c.guestsOn--
	} else if v.open {
		c.staying--
		c.feed.gone(v.last)
	}
}

// take reads the answer's head, then events; false where the stream was refused.
func (c *crowd) take(v *viewer, data []byte) bool {
	if !v.open {
		v.head = append(v.head, data...)
		head, rest, whole := bytes.Cut(v.head, []byte("\r\n\r\n"))
		if !whole {
			return true
		}
		status, _, _ := bytes.Cut(head, []byte("\r\n"))
		if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
			c.report.Refused[string(status)]++
			c.refused++
			return false
		}
		v.open, v.chunked, v.head = true, bytes.Contains(bytes.ToLower(head), []byte("transfer-encoding: chunked")), nil
		if v.guest {
			c.guestsOn++
		} else {
			c.staying++
		}
		data = rest
	}
	if !v.chunked {
		c.events(v, data)
		return true
	}
	for len(data) > 0 {
		if v.chunk == 0 { // at the line that says how long the next one is
			v.head = append(v.head, data...)
			line, rest, whole := bytes.Cut(v.head, []byte("\r\n"))
			if !whole {
				return true
			}
			size, err := strconv.ParseInt(string(line), 16, 32)
			if err != nil || size == 0 {
				return false
			}
			v.chunk, data, v.head = int(size)+2, rest, nil
		}
		part := data[:min(len(data), v.chunk)]
		data, v.chunk = data[len(part):], v.chunk-len(part)
		c.events(v, part[:len(part)-max(0, min(2-v.chunk, len(part)))]) // without the line end
	}
	return true
}

// events takes text/event-stream apart.
func (c *crowd) events(v *viewer, data []byte) {
	if len(v.event) > 0 {
		v.event = append(v.event, data...)
		data = v.event
	}
	for {
		event, rest, whole := bytes.Cut(data, []byte("\n\n"))
		if !whole {
			break
		}
		c.batch(v, event)
		data = rest
	}
	v.event = append(v.event[:0], data...)
	if len(data) == 0 {
		v.event = nil // 5,000 of these would be a part of what the machine has to hold
	}
}

// batch takes one event; comments, greetings and pings are none of ours.
func (c *crowd) batch(v *viewer, event []byte) {
	if bytes.HasPrefix(event, []byte("event: gap")) {
		c.report.Gaps++
		return
	}
	id, found := measure.Number(event, `"batch_id":`)
	if !found || v.guest {
		return
	}
	merged, found := measure.Number(event, `"merged":`)
	if !found {
		merged = 1
	}
	index := int(id) - c.feed.base
	if index < 0 { // of before this run
		return
	}
	if v.last < 0 {
		c.greeted++
		v.last = index
		return
	}
	if c.measured >= 0 && index >= c.measured {
		c.delivered++
		c.report.Merged += int(merged) - 1
		if index <= v.last {
			c.report.Repeated++
		} else if index-v.last != int(merged) {
			c.report.Gaps++
		}
	}
	for ; v.last < index; v.last++ {
		c.feed.arrived(v.last + 1)
	}
}
