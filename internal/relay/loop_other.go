//go:build !linux

package relay

import (
	"context"
	"errors"
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
