//go:build unix

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// reader puts messages together, and is strict about the frames.
type reader struct {
	br      *bufio.Reader
	op      frame.Opcode // of the message under way; zero: none
	message []byte
}

// errIllegal marks what no peer may send.
var errIllegal = errors.New("illegal frame")

// partial reports whether a message has begun and not ended.
func (r *reader) partial() bool { return r.op != 0 }

// next gives the next control frame or whole message; it is valid until the
// next call.
func (r *reader) next() (frame.Opcode, []byte, error) {
	for {
		h, err := r.header()
		if err != nil {
			return 0, nil, err
		}
		if h.Op.IsControl() {
			b := make([]byte, h.Length)
			if _, err := io.ReadFull(r.br, b); err != nil {
				return 0, nil, err
			}
			unmask(b, h)
			return h.Op, b, nil
		}
		if (h.Op == frame.Continuation) != r.partial() || h.RSV != 0 {
			return 0, nil, fmt.Errorf("%w: %+v within %v", errIllegal, h, r.op)
		}
		if h.Op != frame.Continuation {
			r.op, r.message = h.Op, r.message[:0]
		}
		at := len(r.message)
		if at+int(h.Length) > 2<<20 {
			return 0, nil, fmt.Errorf("%w: a message of %d bytes", errIllegal, at+int(h.Length))
		}
		r.message = append(r.message, make([]byte, h.Length)...)
		if _, err := io.ReadFull(r.br, r.message[at:]); err != nil {
			return 0, nil, err
		}
		unmask(r.message[at:], h)
		if h.Fin {
			op := r.op
			r.op = 0
			return op, r.message, nil
		}
	}
}

func unmask(b []byte, h frame.Header) {
	if h.Masked {
		frame.Mask(b, h.Mask, 0)
	}
}

func (r *reader) header() (frame.Header, error) {
	var b []byte
	for {
		one, err := r.br.ReadByte()
		if err != nil {
			return frame.Header{}, err
		}
		b = append(b, one)
		h, n, err := frame.ParseHeader(b)
		if err != nil {
			return h, fmt.Errorf("%w: %w", errIllegal, err)
		}
		if n > 0 {
			return h, nil
		}
	}
}
