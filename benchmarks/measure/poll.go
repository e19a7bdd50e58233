// Package measure is what the load generators share: epoll for many TCP connections on one thread, the clock that they are
// timed by, numbers in answers. Linux only.
package measure

import (
	"bytes"
	"log"
	"syscall"
	"time"
	"unsafe"
)

const (
	pwait2        = 441 // waits by nanoseconds; epoll_wait's milliseconds would be a part of what is measured
	edgeTriggered = 1 << 31
	noPort        = 24 // IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, when more of them are free
)

// What may have happened on a connection: something to read or its end; its failure.
const (
	Readable = syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLERR | syscall.EPOLLHUP
	Failed   = syscall.EPOLLERR | syscall.EPOLLHUP
)

var started = time.Now()

// Now is nanoseconds of the monotonic clock, never 0.
func Now() int64 { return int64(time.Since(started)) + 1 }

// Poll knows what happens on connections; C is what the caller keeps of each.
type Poll[C any] struct {
	fd     int
	open   []*C // by file descriptor
	events [512]syscall.EpollEvent
}

// New makes a Poll.
func New[C any]() *Poll[C] {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	Check(err)
	return &Poll[C]{fd: fd}
}

// Dial begins to connect 127.0.0.source to a port of 127.0.0.1, and returns a descriptor that Wait will tell of: once it
// is connected, and from then on whenever it can be read from or written to again.
func (p *Poll[C]) Dial(c *C, source byte, port int) int {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	Check(err)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, noPort, 1)
	Check(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, source}}))
	server := &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if err = syscall.Connect(fd, server); err != syscall.EINPROGRESS {
		Check(err)
	}
	for len(p.open) <= fd {
		p.open = append(p.open, nil)
	}
	p.open[fd] = c
	event := syscall.EpollEvent{Events: syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLIN | edgeTriggered, Fd: int32(fd)}
	Check(syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &event))
	return fd
}

// Close ends a connection.
func (p *Poll[C]) Close(fd int) {
	p.open[fd] = nil
	_ = syscall.Close(fd)
}

// Wait handles what has happened; returns after so many nanoseconds at the latest.
func (p *Poll[C]) Wait(timeout int64, handle func(c *C, events uint32)) {
	t := syscall.NsecToTimespec(max(timeout, 0))
	n, _, failed := syscall.Syscall6(pwait2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)),
		uintptr(unsafe.Pointer(&t)), 0, 0)
	if failed == syscall.EINTR {
		return
	}
	if failed != 0 {
		Check(failed)
	}
	for _, event := range p.events[:n] {
		if c := p.open[event.Fd]; c != nil { // nil: closed by what was handled before
			handle(c, event.Events)
		}
	}
}

// CPUSeconds is what this process has used.
func CPUSeconds() float64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// Number is the integer behind a key in JSON.
func Number(text []byte, key string) (n int64, found bool) {
	_, rest, found := bytes.Cut(text, []byte(key))
	for _, digit := range bytes.TrimLeft(rest, " ") {
		if digit < '0' || digit > '9' {
			break
		}
		n = 10*n + int64(digit-'0')
	}
	return n, found
}

// Check ends the program where there was an error.
func Check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
