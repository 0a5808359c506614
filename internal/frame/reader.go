package frame

import (
	"errors"
	"io"
)

// A Reader reads whole small messages from a peer, such as a first message
// with a token. Pings among its frames are answered, pongs are dropped.
type Reader struct {
	rw       io.ReadWriter
	s        Scanner
	masked   bool // what is written: pongs toward an upstream
	buf      []byte
	msg      []byte
	op       Opcode
	left     int64 // payload of the current frame that is not in msg yet
	mask     [4]byte
	pos      int
	final    bool
	controls int
}

// readerControls is how many control frames a peer may send where a message is
// awaited; every ping costs us a write.
const readerControls = 64

// readerChunk is how much is read at once: a first message with a token is
// small, and what comes behind it is the relay's.
const readerChunk = 4096

// NewReader returns a reader of the frames of rw. o.MaxMessage bounds what it
// keeps and must be set. Deadlines are the caller's.
func NewReader(rw io.ReadWriter, o Options) *Reader {
	if o.MaxMessage <= 0 {
		panic("frame: a Reader needs a bound on messages")
	}
	return &Reader{rw: rw, s: NewScanner(o), masked: !o.FromClient}
}

// A CloseError is a legal close frame that came instead of a message.
type CloseError struct {
	Code uint16
	Text string
}

func (e *CloseError) Error() string { return "frame: the peer closed the connection" }

// Next returns the next whole message, unmasked; it is the caller's to keep.
// The error is *Error for a violation, *CloseError for a close frame, or the
// stream's own.
func (r *Reader) Next() (op Opcode, payload []byte, err error) {
	for {
		done, err := r.scan()
		if err != nil {
			return 0, nil, err
		}
		if done {
			payload, r.msg = r.msg, nil
			return r.op, payload, nil
		}
		have := len(r.buf)
		r.buf = append(r.buf, make([]byte, readerChunk)...)
		n, err := r.rw.Read(r.buf[have:])
		r.buf = r.buf[:have+n]
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) && (have > 0 || r.left > 0) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
}

// scan takes frames from buf one at a time, so that it stops right after the
// last frame of a message.
func (r *Reader) scan() (done bool, err error) {
	for {
		if r.left > 0 {
			k := int(min(r.left, int64(len(r.buf))))
			if _, _, err := r.s.Scan(r.buf[:k]); err != nil {
				return false, err
			}
			from := len(r.msg)
			r.msg = append(r.msg, r.buf[:k]...)
			r.pos = Mask(r.msg[from:], r.mask, r.pos)
			r.left -= int64(k)
			r.buf = r.buf[k:]
			if r.left > 0 {
				return false, nil
			}
			if r.final {
				return true, nil
			}
		}
		h, n, err := ParseHeader(r.buf)
		if err != nil {
			return false, err
		}
		if n == 0 {
			// The scanner knows what a part of a header breaks already.
			_, _, err := r.s.Scan(r.buf)
			return false, err
		}
		if h.Op.IsControl() {
			n += int(min(h.Length, MaxControl))
		}
		k, c, err := r.s.Scan(r.buf[:min(n, len(r.buf))])
		if err != nil {
			return false, err
		}
		if k == 0 {
			return false, nil
		}
		whole := r.buf[:k]
		r.buf = r.buf[k:]
		if c.Op != 0 {
			if err := r.control(c.Op, whole); err != nil {
				return false, err
			}
			continue
		}
		if h.Op != Continuation {
			r.op = h.Op
		}
		r.left, r.mask, r.pos, r.final = h.Length, h.Mask, 0, h.Fin
		if h.Length == 0 && h.Fin {
			return true, nil
		}
	}
}

func (r *Reader) control(op Opcode, whole []byte) error {
	if r.controls++; r.controls > readerControls {
		return errControls
	}
	var room [MaxControl]byte
	payload := AppendPayload(room[:0], whole)
	switch op {
	case Close:
		code, text, err := ParseClose(payload)
		if err != nil {
			return err
		}
		return &CloseError{Code: code, Text: text}
	case Ping:
		_, err := r.rw.Write(AppendPong(nil, payload, r.masked))
		return err
	}
	return nil
}

// Buffered is what was read beyond the last message; it belongs to whoever
// reads the stream next.
func (r *Reader) Buffered() []byte { return r.buf }

// AwaitClose is AwaitClose from where r is.
func (r *Reader) AwaitClose(limit int) { AwaitClose(r.rw, r.s, r.buf, limit) }

var errControls = &Error{ErrProtocol, "control frames instead of a message"}
