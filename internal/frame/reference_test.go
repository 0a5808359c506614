package frame_test

import (
	"encoding/binary"
	"math/big"
	"unicode/utf8"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// verdict is what a direction's bytes come to: the legal frames at their start
// and the kind of violation after them, if any.
type verdict struct {
	frames   []refFrame
	passable int // bytes that may be passed on
	kind     error
}

type refFrame struct {
	op         frame.Opcode
	start, end int
}

// reference reads a whole direction at once, slowly and by the letter of
// RFC 6455. It shares nothing with the scanner but the bound on fragments.
func reference(b []byte, o frame.Options) verdict {
	var v verdict
	var message []byte // of the message that is open, unmasked
	var compressed, open, text bool
	size := new(big.Int)
	fragments := int64(0)
	bad := func(kind error) verdict { v.kind = kind; return v }
	for at := 0; ; {
		v.passable = at
		h := b[at:]
		if len(h) < 2 {
			return v
		}
		fin, rsv, op := h[0]>>7 == 1, h[0]>>4&7, frame.Opcode(h[0]&15)
		masked, length := h[1]>>7 == 1, new(big.Int).SetUint64(uint64(h[1]&127))
		if masked != o.FromClient {
			return bad(frame.ErrProtocol)
		}
		control := op >= 8
		if op > 10 || op > 2 && op < 8 {
			return bad(frame.ErrProtocol)
		}
		if control && (!fin || h[1]&127 > 125) {
			return bad(frame.ErrProtocol)
		}
		if !control && (op == 0) != open {
			return bad(frame.ErrProtocol)
		}
		if rsv != 0 && (rsv != 4 || !o.Compression || control || op == 0) {
			return bad(frame.ErrProtocol)
		}
		n := 2
		switch h[1] & 127 {
		case 126:
			if n = 4; len(h) < n {
				return v
			}
			length.SetUint64(uint64(binary.BigEndian.Uint16(h[2:])))
			if length.Cmp(big.NewInt(126)) < 0 {
				return bad(frame.ErrProtocol)
			}
		case 127:
			if n = 10; len(h) < n {
				return v
			}
			length.SetUint64(binary.BigEndian.Uint64(h[2:]))
			if length.BitLen() > 63 || length.BitLen() < 17 {
				return bad(frame.ErrProtocol)
			}
		}
		if !control {
			if op != 0 {
				size.SetInt64(0)
				fragments, message, text, compressed = 0, nil, op == frame.Text, rsv == 4
			}
			size.Add(size, length)
			fragments++
			limit := big.NewInt(1<<63 - 1)
			if o.MaxMessage > 0 {
				limit.SetInt64(o.MaxMessage)
			}
			if size.Cmp(limit) > 0 || fragments > frame.MaxFragments+size.Int64()/32 {
				return bad(frame.ErrTooBig)
			}
		}
		key := []byte{0, 0, 0, 0}
		if masked {
			if len(h) < n+4 {
				return v
			}
			key = h[n : n+4]
			n += 4
		}
		whole := length.Cmp(big.NewInt(int64(len(h)-n))) <= 0
		payload := h[n:]
		if whole {
			payload = payload[:length.Int64()]
		}
		if control {
			if !whole {
				return v
			}
			v.frames = append(v.frames, refFrame{op, at, at + n + len(payload)})
			at += n + len(payload)
			v.passable = at
			if op == frame.Close {
				return v
			}
			continue
		}
		for i, c := range payload {
			message = append(message, c^key[i%4])
		}
		open = !fin
		if text && !compressed && o.CheckUTF8 && !textMayBe(message, whole && fin) {
			return bad(frame.ErrPayload)
		}
		if !whole {
			v.passable = len(b)
			return v
		}
		v.frames = append(v.frames, refFrame{op, at, at + n + len(payload)})
		at += n + len(payload)
	}
}

// textMayBe reports whether b is UTF-8, or can become it when it is not whole.
func textMayBe(b []byte, whole bool) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			if whole || utf8.FullRune(b) {
				return false
			}
			// A prefix of a character: some ending must make it one.
			for _, tail := range []string{"\x80", "\x80\x80", "\x80\x80\x80", "\xa0\x80", "\x90\x80\x80", "\x90\x80", "\xa0"} {
				if utf8.Valid(append(append([]byte{}, b...), tail...)) {
					return true
				}
			}
			return false
		}
		b = b[n:]
	}
	return true
}
