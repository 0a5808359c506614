package gateway

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
)

// exhaustion is something that this machine has run out of. It is no upstream's
// fault, and only the operator can do something about it.
type exhaustion struct{ name, what, advice string }

var (
	noSourcePort = &exhaustion{"source_ports", "no source port is left for connections to this upstream",
		"give the route more upstream addresses, or widen net.ipv4.ip_local_port_range (the same error where this machine has no address of the upstream's family)"}
	noDescriptor = &exhaustion{"descriptors", "no file descriptor is left",
		"raise ulimit -n (LimitNOFILE= with systemd); a connection needs two"}
	noSystemDescriptor = &exhaustion{"system_descriptors", "no file descriptor is left on this machine",
		"raise fs.file-max, or find out who holds so many"}
)

// exhausted says what was lacking if err is that, else nil.
func exhausted(err error) *exhaustion {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return noSourcePort
	case errors.Is(err, syscall.EMFILE):
		return noDescriptor
	case errors.Is(err, syscall.ENFILE):
		return noSystemDescriptor
	}
	return nil
}

// errReserve: what is left is not for connections.
var errReserve = fmt.Errorf("those left are kept in reserve: %w", syscall.EMFILE)

// exhaustions counts what was lacking since the start.
type exhaustions struct {
	mu    sync.Mutex
	times map[*exhaustion]int64
}

func (e *exhaustions) add(x *exhaustion) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.times == nil {
		e.times = map[*exhaustion]int64{}
	}
	e.times[x]++
}

// Exhausted is something that this machine ran out of when it was to connect to
// an upstream.
type Exhausted struct {
	// Name is source_ports, descriptors or system_descriptors.
	Name   string
	Times  int64
	Advice string
}

// Exhausted is what was lacking since the start.
func (g *Gateway) Exhausted() []Exhausted {
	g.exhaustions.mu.Lock()
	defer g.exhaustions.mu.Unlock()
	var list []Exhausted
	for _, x := range []*exhaustion{noSourcePort, noDescriptor, noSystemDescriptor} {
		if n := g.exhaustions.times[x]; n > 0 {
			list = append(list, Exhausted{Name: x.name, Times: n, Advice: x.advice})
		}
	}
	return list
}

// ranOut counts and tells that something was lacking.
func (g *Gateway) ranOut(u *upstream, x *exhaustion, err error) {
	g.exhaustions.add(x)
	g.report.exhausted(u, x, err)
}
