// Package poll is epoll for many TCP connections on one thread, and the clock they are timed by. Linux only.
package poll

import (
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

// Poll knows what happens on connections.
type Poll struct {
	fd     int
	events [512]syscall.EpollEvent
}

// New makes a Poll.
func New() (*Poll, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	return &Poll{fd: fd}, err
}

// Dial begins to connect 127.0.0.source to a port of 127.0.0.1, and returns a descriptor that Wait will tell of: once it
// is connected, and from then on whenever it can be read from or written to again.
func (p *Poll) Dial(source byte, port int) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, noPort, 1)
	if err = syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, source}}); err != nil {
		return 0, err
	}
	server := &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if err = syscall.Connect(fd, server); err != nil && err != syscall.EINPROGRESS {
		return 0, err
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLIN | edgeTriggered, Fd: int32(fd)}
	return fd, syscall.EpollCtl(p.fd, syscall.EPOLL_CTL_ADD, fd, &event)
}

// Wait returns what has happened, or nothing after so many nanoseconds.
func (p *Poll) Wait(timeout int64) []syscall.EpollEvent {
	t := syscall.NsecToTimespec(max(timeout, 0))
	n, _, failed := syscall.Syscall6(pwait2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)),
		uintptr(unsafe.Pointer(&t)), 0, 0)
	if failed == syscall.EINTR {
		return nil
	}
	if failed != 0 {
		panic(failed)
	}
	return p.events[:n]
}

// CPUSeconds is what this process has used.
func CPUSeconds() float64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
