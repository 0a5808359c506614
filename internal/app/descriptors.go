package app

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// descriptors keeps some of the process's file descriptors free, so that it can
// still be managed, and clients are refused and not left waiting, when connections
// have taken the others. The runtime has raised the limit to what it may be.
type descriptors struct {
	limit, reserve int

	last   atomic.Int64 // that were used,
	lastAt atomic.Int64 // Unix nanoseconds

	// Where the system does not tell the number at once, it is counted once in a
	// while.
	counted atomic.Int64
	at      atomic.Int64
}

const (
	maxReserve     = 512
	countInterval  = time.Second
	glance         = 5 * time.Millisecond
	ownDescriptors = "/proc/self/fd"
)

func newDescriptors() *descriptors {
	limit := descriptorLimit()
	if limit == 0 {
		return &descriptors{}
	}
	return withLimit(int(min(limit, 1<<30)))
}

func withLimit(limit int) *descriptors {
	return &descriptors{limit: limit, reserve: min(max(limit/20, 32), maxReserve, limit/4)}
}

// room reports whether a handshake may take one more. It is asked before the
// upstream is dialled, so that the reserve is touched by accepting alone.
// While there are plenty, what was seen a moment ago will do.
func (d *descriptors) room() bool {
	now := time.Now().UnixNano()
	if now-d.lastAt.Load() < int64(glance) && int(d.last.Load()) < d.limit-4*d.reserve {
		return true
	}
	used := d.used()
	d.last.Store(int64(used))
	d.lastAt.Store(now)
	return d.limit == 0 || used == 0 || used < d.limit-d.reserve
}

// used is how many there are, 0 where nobody tells.
func (d *descriptors) used() int {
	if info, err := os.Stat(ownDescriptors); err == nil && info.Size() > 0 {
		return int(info.Size()) // Linux 6.2
	}
	now := time.Now().UnixNano()
	if last := d.at.Load(); now-last > int64(countInterval) && d.at.CompareAndSwap(last, now) {
		for _, dir := range []string{ownDescriptors, "/dev/fd"} {
			if names, err := os.ReadDir(dir); err == nil {
				d.counted.Store(int64(len(names)))
				break
			}
		}
	}
	return int(d.counted.Load())
}

// spare reports whether a new socket's number leaves half of the reserve free. The
// system gives the lowest number there is, so that whoever gets one of the highest
// says that all below are taken.
func (d *descriptors) spare(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok || d.limit == 0 {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	number := 0
	if err := raw.Control(func(fd uintptr) { number = int(fd) }); err != nil { //nolint:gosec // a descriptor is an int
		return true
	}
	return d.spares(number)
}

// spares is spare for a descriptor's number.
func (d *descriptors) spares(number int) bool {
	return d.limit == 0 || number < d.limit-d.reserve/2
}

// frugal is a listener that closes what it accepts into the last of the reserve.
type frugal struct {
	net.Listener
	files  *descriptors
	log    *slog.Logger
	scarce atomic.Bool // it was told
}

// Accept implements net.Listener. Errors that pass are told once until it works
// again; net/http waits a little longer after each.
func (f *frugal) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		switch {
		case err != nil:
			f.failed(err)
			return nil, err
		case f.takes(f.files.spare(c)):
			return c, nil
		}
		_ = c.Close()
	}
}

// failed is told why nothing could be accepted.
func (f *frugal) failed(err error) {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		f.tell("no connection can be accepted", err.Error())
	}
}

// takes decides on what was accepted.
func (f *frugal) takes(spare bool) bool {
	if !spare {
		f.tell("connections are closed as they come", "the last descriptors are kept for managing this server")
		return false
	}
	if f.scarce.Load() {
		f.scarce.Store(false)
	}
	return true
}

func (f *frugal) tell(what, why string) {
	if !f.scarce.Swap(true) {
		f.log.Error(what, "error", why, "descriptors", f.files.limit, "advice", "raise ulimit -n (LimitNOFILE= with systemd); a connection needs two")
	}
}
