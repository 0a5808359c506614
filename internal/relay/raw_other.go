//go:build !unix

package relay

import (
	"syscall"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// Elsewhere every side is a stream that cannot tell whether it is ready.

func rawConn(Stream) syscall.RawConn { return nil }

func (s *side) advance(uintptr) bool { return true }

func (s *side) advanceTail(uintptr) bool { return true }

func (s *side) writeTail(end reason.End) {
	if x := s.more(); x.tail == nil {
		x.tail = frame.AppendClose(nil, end.Code, end.Text, s.masked)
	}
}

func (p *pump) readRaw() error { return nil }

func (p *pump) tryRead(uintptr) bool { return true }
