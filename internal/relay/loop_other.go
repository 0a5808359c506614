//go:build !(linux && (amd64 || arm64 || riscv64))

package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// Loops are for Linux: elsewhere there are none.
type Loops struct{}

// NewLoops fails: epoll is Linux's.
func NewLoops(int) (*Loops, error) { return nil, errors.ErrUnsupported }

// Run returns at once.
func (*Loops) Run(context.Context) error { return nil }

type loop struct{}

// A Socket is a loop's: there are none.
type Socket struct{ Stream }

// Remote is the peer's address.
func (*Socket) Remote() netip.AddrPort { return netip.AddrPort{} }

// OnGone does nothing.
func (*Socket) OnGone(func()) {}

// Early is false.
func (*Socket) Early() bool { return false }

// Conn fails.
func (*Socket) Conn() (*net.TCPConn, error) { return nil, errors.ErrUnsupported }

// A Listener is for Linux.
type Listener struct {
	Accept   func(netip.AddrPort, int) bool
	First    func(s *Socket, b []byte)
	Gone     func(netip.AddrPort)
	Patience time.Duration
	Failed   func(error)
}

// Listen fails.
func (*Loops) Listen(context.Context, *net.TCPListener, Listener) error {
	return errors.ErrUnsupported
}

// Dial fails.
func (*Loops) Dial(context.Context, netip.AddrPort, *Socket) (*Socket, error) {
	return nil, errors.ErrUnsupported
}

func (*Loops) adopt(*Conn, Stream, Stream) bool { return false }

func (*loop) post(*Conn) bool { return false }

func (c *Conn) leftLoop() {}

func (c *Conn) wakeAt(time.Time) {}

func (c *Conn) wakeAtLocked(time.Time) {}

func (s *side) push([]byte, int64, bool) result { return stopped }

func (s *side) drop() {}

func (s *side) settleLoop(reason.End, time.Time, bool) {}

func (s *side) cutSocket() {}

func (s *side) peerGone() bool { return true }

func (s *side) closeSocket() {}
