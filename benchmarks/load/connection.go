package main

import (
	"bytes"
	"strconv"
	"syscall"

	"benchmarks/poll"
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
	fd, err := g.poll.Dial(1, g.port)
	check(err)
	*c = connection{fd: fd, received: c.received[:0]}
	for len(g.connected) <= fd {
		g.connected = append(g.connected, nil)
	}
	g.connected[fd] = c
}

func (g *generator) handle(c *connection, events uint32) {
	if !c.open {
		if events&poll.Failed != 0 {
			g.lose(c)
			return
		}
		c.open = true
		g.idle = append(g.idle, c)
	}
	if len(c.unsent) > 0 {
		g.flush(c)
	}
	if events&poll.Readable != 0 && c.open {
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
			g.out.answered(c.due, poll.Now(), status, body)
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
	_ = syscall.Close(c.fd)
	g.connected[c.fd] = nil
	if c.due != 0 {
		g.out.broke()
		g.pending--
	}
	for n, idle := range g.idle {
		if idle == c {
			g.idle = append(g.idle[:n], g.idle[n+1:]...)
			break
		}
	}
	c.open, c.due, c.unsent = false, 0, nil
	g.retries = append(g.retries, retry{poll.Now() + retryNanoseconds, c})
}

// parse takes an answer with a Content-Length apart; whole is false while some of it is missing.
func parse(data []byte) (status int, body []byte, closes, whole bool) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 || len(data) < 12 {
		return 0, nil, false, false
	}
	length := 0
	for head := data[:end]; ; {
		var line []byte
		line, head, whole = bytes.Cut(head, []byte("\r\n"))
		if len(line) > 15 && bytes.EqualFold(line[:15], []byte("content-length:")) {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(line[15:])))
		}
		if len(line) > 11 && bytes.EqualFold(line[:11], []byte("connection:")) {
			closes = bytes.EqualFold(bytes.TrimSpace(line[11:]), []byte("close"))
		}
		if !whole {
			break
		}
	}
	if len(data) < end+4+length {
		return 0, nil, false, false
	}
	status, _ = strconv.Atoi(string(data[9:12]))
	return status, data[end+4 : end+4+length], closes, true
}
