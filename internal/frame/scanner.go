package frame

import (
	"encoding/binary"
	"math"
)

// Options say what a scanner's direction allows.
type Options struct {
	// FromClient: frames must be masked (§5.1); else they must not be.
	FromClient bool
	// Compression: RSV1 may stand on the first frame of a message (RFC 7692).
	Compression bool
	// MaxMessage is the longest message in payload bytes, over all its
	// fragments, as they are on the wire. 0: no limit but 63 bits.
	MaxMessage int64
	// CheckUTF8: text payloads that are not compressed must be UTF-8 (§8.1).
	CheckUTF8 bool
}

// A Control is a control frame that ends where Scan stopped.
type Control struct {
	// Op is Close, Ping or Pong, or 0 when Scan did not stop at a control frame.
	Op Opcode
	// Len is the whole frame's length in bytes, header and mask included.
	Len int
}

// A Scanner follows one direction of a WebSocket connection. The zero value is
// not ready: use NewScanner. It is a small value and may be copied to look
// ahead; it is not safe for concurrent use.
type Scanner struct {
	left     int64 // payload bytes of the current frame still to come
	size     int64 // payload bytes of the current message, as announced so far
	max      int64
	messages int64
	controls int64
	frames   uint32 // of the current message
	mask     [4]byte
	flags    flags
	pos      uint8 // into the mask
	text     UTF8
}

type flags uint8

const (
	fromClient flags = 1 << iota
	compression
	checkUTF8
	inMessage // a fragmented message is open
	checking  // the current message's payload is being checked
	final     // the current data frame is its message's last
	closed    // a close frame has passed
	failed
)

// NewScanner returns a scanner at the start of a direction.
func NewScanner(o Options) Scanner {
	s := Scanner{max: o.MaxMessage}
	if o.FromClient {
		s.flags |= fromClient
	}
	if o.Compression {
		s.flags |= compression
	}
	if o.CheckUTF8 {
		s.flags |= checkUTF8
	}
	return s
}

// Left is how many payload bytes the current frame still misses: 0 exactly
// when what was scanned ends between two frames.
func (s *Scanner) Left() int64 { return s.left }

// Between reports whether what was scanned so far ends between two frames.
func (s *Scanner) Between() bool { return s.left == 0 }

// BetweenMessages reports whether what was scanned so far ends between two
// messages: no frame and no fragmented message is open.
func (s *Scanner) BetweenMessages() bool { return s.left == 0 && s.flags&inMessage == 0 }

// Closed reports whether a close frame has been scanned: nothing after it
// counts (§5.5.1).
func (s *Scanner) Closed() bool { return s.flags&closed != 0 }

// Messages is how many messages have begun their last frame.
func (s *Scanner) Messages() int64 { return s.messages }

// Controls is how many control frames have been scanned.
func (s *Scanner) Controls() int64 { return s.controls }

// Scan walks over p, the bytes that follow what was scanned so far.
//
// p[:n] is legal and may be passed on as it is. Scan stops
//   - after a whole control frame: c tells which, and p[n-c.Len:n] is that
//     frame; call again with p[n:];
//   - at the end of p, or at a header or control frame of which p holds only a
//     part: p[n:], shorter than MaxControlFrame, must come again with what
//     follows it, and may not be passed on yet;
//   - at a violation: err is *Error, and p[:n] ends before the frame that broke
//     a rule or, when that frame began in an earlier call, n is 0. After an
//     error or a close frame Scan returns 0 for ever.
func (s *Scanner) Scan(p []byte) (n int, c Control, err error) {
	if s.flags&(closed|failed) != 0 {
		return 0, Control{}, nil
	}
	start, began := 0, false // the current frame's start, or p's when it began earlier
	for {
		if s.left > 0 {
			k := len(p) - n
			if int64(k) > s.left {
				k = int(s.left)
			}
			if s.flags&checking != 0 {
				if !s.text.addMasked(p[n:n+k], s.mask, s.pos) {
					return start, Control{}, s.spoil(began, s.left)
				}
				s.pos = uint8((int(s.pos) + k) & 3)
			}
			n += k
			s.left -= int64(k)
			if s.left > 0 {
				return n, Control{}, nil
			}
			if s.flags&(checking|final) == checking|final && !s.text.Done() {
				return start, Control{}, s.spoil(began, int64(k))
			}
		}
		start, began = n, true
		h := p[n:]
		if len(h) < 2 {
			return n, Control{}, nil
		}
		if (h[1]&0x80 != 0) != (s.flags&fromClient != 0) {
			return n, Control{}, s.fail(errMask)
		}
		if Opcode(h[0]).IsControl() {
			k, err := s.control(h)
			if err != nil || k == 0 {
				return n, Control{}, err
			}
			return n + k, Control{Op: Opcode(h[0] & 0x0f), Len: k}, nil
		}
		k, err := s.data(h)
		if err != nil || k == 0 {
			return n, Control{}, err
		}
		n += k
		if s.left == 0 && s.flags&(checking|final) == checking|final && !s.text.Done() {
			return start, Control{}, s.spoil(true, 0)
		}
	}
}

// control takes a whole control frame at the start of h (§5.5) and returns its
// length, 0 when some of it is missing.
func (s *Scanner) control(h []byte) (int, error) {
	op, length := Opcode(h[0]&0x0f), int(h[1]&0x7f)
	switch {
	case op > Pong:
		return 0, s.fail(errOpcode)
	case h[0]&0x70 != 0:
		return 0, s.fail(errRSV)
	case h[0]&0x80 == 0:
		return 0, s.fail(errControlFin)
	case length > MaxControl:
		return 0, s.fail(errControlSize)
	}
	length += 2
	if s.flags&fromClient != 0 {
		length += 4
	}
	if len(h) < length {
		return 0, nil
	}
	s.controls++
	if op == Close {
		s.flags |= closed
	}
	return length, nil
}

// data takes the header of a data frame at the start of h and returns its
// length, 0 when some of it is missing; nothing has changed then. What its
// first bytes break is refused without waiting for the rest.
func (s *Scanner) data(h []byte) (int, error) {
	op := Opcode(h[0] & 0x0f)
	switch {
	case op > Binary:
		return 0, s.fail(errOpcode)
	case op == Continuation && s.flags&inMessage == 0:
		return 0, s.fail(errContinuation)
	case op != Continuation && s.flags&inMessage != 0:
		return 0, s.fail(errInterleaved)
	}
	rsv := h[0] & 0x70
	// RSV1 marks a compressed message on its first frame only (RFC 7692 §6).
	if rsv != 0 && (rsv != 0x40 || op == Continuation || s.flags&compression == 0) {
		return 0, s.fail(errRSV)
	}
	n, length := 2, int64(h[1]&0x7f)
	switch length {
	case 126:
		n = 4
		if len(h) < n {
			return 0, nil
		}
		if length = int64(binary.BigEndian.Uint16(h[2:])); length < 126 {
			return 0, s.fail(errLengthForm)
		}
	case 127:
		n = 10
		if len(h) < n {
			return 0, nil
		}
		if length = int64(binary.BigEndian.Uint64(h[2:])); length < 0 {
			return 0, s.fail(errLengthBit)
		}
		if length < 1<<16 {
			return 0, s.fail(errLengthForm)
		}
	}
	size, frames := length, uint32(1)
	if op == Continuation {
		if length > math.MaxInt64-s.size {
			return 0, s.fail(errSize)
		}
		size, frames = s.size+length, s.frames+1
	}
	if s.max > 0 && size > s.max {
		return 0, s.fail(errSize)
	}
	if int64(frames) > MaxFragments+size/fragmentBytes {
		return 0, s.fail(errFragments)
	}
	if s.flags&fromClient != 0 {
		if len(h) < n+4 {
			return 0, nil
		}
		s.mask = [4]byte(h[n : n+4])
		n += 4
	}

	s.left, s.size, s.frames, s.pos = length, size, frames, 0
	if op != Continuation {
		s.text = UTF8{}
		s.flags &^= checking
		if op == Text && rsv == 0 && s.flags&checkUTF8 != 0 {
			s.flags |= checking
		}
	}
	if h[0]&0x80 != 0 {
		s.flags = s.flags&^inMessage | final
		s.messages++
	} else {
		s.flags = s.flags&^final | inMessage
	}
	return n, nil
}

// spoil fails a text frame. When it began in this very call none of it passes;
// else the part of it that went on misses left bytes for ever.
func (s *Scanner) spoil(began bool, left int64) error {
	s.left = left
	if began {
		s.left = 0
	}
	return s.fail(errText)
}

func (s *Scanner) fail(e *Error) error {
	s.flags |= failed
	return e
}

// AppendPayload appends the unmasked payload of a whole frame, such as the
// control frame Scan stopped at, to dst. frame is left as it is.
func AppendPayload(dst, frame []byte) []byte {
	h, n, err := ParseHeader(frame)
	if err != nil || n == 0 {
		return dst
	}
	start := len(dst)
	dst = append(dst, frame[n:]...)
	if h.Masked {
		Mask(dst[start:], h.Mask, 0)
	}
	return dst
}

// NextBoundary returns the first position at or after k that lies between two
// frames, where p is what a scanner allowed, left its Left before p, and k at
// most len(p). It may lie beyond p, and is MaxInt64 when it would lie beyond that.
func NextBoundary(p []byte, left int64, k int) int64 {
	at := left
	for at < int64(k) {
		h, n, err := ParseHeader(p[at:])
		if err != nil || n == 0 || h.Length > math.MaxInt64-at-int64(n) {
			return math.MaxInt64
		}
		at += int64(n) + h.Length
	}
	return at
}

var (
	errMask         = &Error{ErrProtocol, "frame masked or unmasked against its direction"}
	errRSV          = &Error{ErrProtocol, "reserved bit set"}
	errOpcode       = &Error{ErrProtocol, "reserved opcode"}
	errControlFin   = &Error{ErrProtocol, "fragmented control frame"}
	errControlSize  = &Error{ErrProtocol, "control frame above 125 bytes"}
	errContinuation = &Error{ErrProtocol, "continuation of no message"}
	errInterleaved  = &Error{ErrProtocol, "new message inside a fragmented one"}
	errSize         = &Error{ErrTooBig, "message above the limit"}
	errFragments    = &Error{ErrTooBig, "message of too many fragments"}
	errText         = &Error{ErrPayload, "text that is not UTF-8"}
	errLengthForm   = &Error{ErrProtocol, "length not in its shortest form"}
	errLengthBit    = &Error{ErrProtocol, "length above 63 bits"}
)
