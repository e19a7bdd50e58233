package main

import (
	"bytes"
	"slices"
	"strconv"
	"syscall"

	"benchmarks/measure"
)

// connection carries one request at a time.
type connection struct {
	fd       int
	open     bool
	due      int64  // when its request was due; 0: it has none
	unsent   []byte // rest of that request
	received []byte // of the answer, so far
}

const retryNanoseconds = 100e6

func (g *generator) connect(c *connection) {
	*c = connection{received: c.received[:0]}
	c.fd = g.poll.Dial(c, 1, g.port)
}

func (g *generator) handle(c *connection, events uint32) {
	if !c.open {
		if events&measure.Failed != 0 {
			g.lose(c)
			return
		}
		c.open = true
		g.idle = append(g.idle, c)
	}
	if len(c.unsent) > 0 {
		g.flush(c)
	}
	if events&measure.Readable != 0 && c.open {
		g.read(c)
	}
}

func (g *generator) flush(c *connection) {
	n, err := syscall.Write(c.fd, c.unsent)
	if err == syscall.EAGAIN {
		return
	}
	if err != nil {
		g.lose(c)
		return
	}
	c.unsent = c.unsent[n:] // where that is not all, epoll says when there is room
}

func (g *generator) read(c *connection) {
	for {
		if cap(c.received)-len(c.received) < 4096 {
			c.received = append(make([]byte, 0, 2*cap(c.received)+16384), c.received...)
		}
		n, err := syscall.Read(c.fd, c.received[len(c.received):cap(c.received)])
		if err == syscall.EAGAIN {
			return
		}
		if err != nil || n <= 0 {
			g.lose(c)
			return
		}
		room := cap(c.received) - len(c.received)
		c.received = c.received[:len(c.received)+n]
		if status, body, closes, whole := parse(c.received); whole {
			g.out.answered(c.due, measure.Now(), status, body)
			c.due, c.received = 0, c.received[:0]
			g.pending--
			if closes || len(c.unsent) > 0 {
				g.lose(c)
				return
			}
			g.idle = append(g.idle, c)
		}
		if n < room { // all that was there; saves a call that would only say so
			return
		}
	}
}

// lose closes a connection and opens it again a little later.
func (g *generator) lose(c *connection) {
	g.poll.Close(c.fd)
	if c.due != 0 {
		g.out.Broken++
		g.pending--
	}
	if n := slices.Index(g.idle, c); n >= 0 {
		g.idle = slices.Delete(g.idle, n, n+1)
	}
	c.open, c.due, c.unsent = false, 0, nil
	g.retries = append(g.retries, retry{measure.Now() + retryNanoseconds, c})
}

// parse takes an answer with a Content-Length apart; whole is false while some of it is missing.
func parse(data []byte) (status int, body []byte, closes, whole bool) {
	head, rest, found := bytes.Cut(data, []byte("\r\n\r\n"))
	if !found {
		return 0, nil, false, false
	}
	length, _ := strconv.Atoi(string(header(head, "content-length:")))
	if len(rest) < length {
		return 0, nil, false, false
	}
	status, _ = strconv.Atoi(string(data[9:12]))
	return status, rest[:length], bytes.EqualFold(header(head, "connection:"), []byte("close")), true
}

// header is the value behind a name, in an answer's head; nil where there is none.
func header(head []byte, name string) []byte {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name):])
		}
	}
	return nil
}
