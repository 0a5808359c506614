package frame

import "errors"

// An Opcode is a frame's type (RFC 6455 §5.2).
type Opcode byte

// The opcodes there are; all others are reserved.
const (
	Continuation Opcode = 0x0
	Text         Opcode = 0x1
	Binary       Opcode = 0x2
	Close        Opcode = 0x8
	Ping         Opcode = 0x9
	Pong         Opcode = 0xA
)

// IsControl reports whether o is a control opcode, known or reserved.
func (o Opcode) IsControl() bool { return o&0x8 != 0 }

// Sizes in bytes.
const (
	// MaxHeader is the longest header: two bytes, a 64-bit length, a mask.
	MaxHeader = 14
	// MaxControl is the longest payload of a control frame (§5.5).
	MaxControl = 125
	// MaxReason is the longest reason text of a close frame: its payload
	// without the code.
	MaxReason = MaxControl - 2
	// MaxControlFrame is a whole control frame with its mask. What a scanner
	// leaves over is always shorter.
	MaxControlFrame = 2 + 4 + MaxControl
)

// Close codes that are never sent (§7.4.1). NoStatus stands for a close frame
// without a code.
const (
	NoStatus = 1005
)

// A message of many tiny fragments costs us more than its sender: it may have
// MaxFragments, and one more for every fragmentBytes bytes it brought.
const (
	MaxFragments  = 16384
	fragmentBytes = 32
)

// The kinds of violation. Every error of this package that a peer caused is
// one of these, wrapped by *Error.
var (
	ErrProtocol = errors.New("protocol error")
	ErrPayload  = errors.New("invalid payload")
	ErrTooBig   = errors.New("message too big")
)

// An Error is a violation by the peer. Kind is ErrProtocol (1002), ErrPayload
// (1007) or ErrTooBig (1009); What says which rule, in words for a log.
type Error struct {
	Kind error
	What string
}

func (e *Error) Error() string { return "frame: " + e.Kind.Error() + ": " + e.What }

func (e *Error) Unwrap() error { return e.Kind }

// Code is the close code for the violation.
func (e *Error) Code() uint16 {
	switch {
	case errors.Is(e.Kind, ErrPayload):
		return 1007
	case errors.Is(e.Kind, ErrTooBig):
		return 1009
	}
	return 1002
}
