package frame

import (
	"crypto/rand"
	"unicode/utf8"
)

// Append appends one whole frame (FIN set) to dst. Frames toward an upstream
// are masked, each with a fresh random key (§5.3, §10.3); frames toward a
// client are not (§5.1). Control payloads above MaxControl are cut short.
func Append(dst []byte, op Opcode, payload []byte, masked bool) []byte {
	if op.IsControl() && len(payload) > MaxControl {
		payload = payload[:MaxControl]
	}
	h := Header{Fin: true, Op: op, Masked: masked, Length: int64(len(payload))}
	if masked {
		// crypto/rand never fails: it ends the program instead.
		_, _ = rand.Read(h.Mask[:])
	}
	dst = AppendHeader(dst, h)
	start := len(dst)
	dst = append(dst, payload...)
	if masked {
		Mask(dst[start:], h.Mask, 0)
	}
	return dst
}

// AppendClose appends a close frame. NoStatus makes one without a code; a
// reason longer than MaxReason is cut at a character. Which codes may be sent
// is the caller's care: see LegalCode.
func AppendClose(dst []byte, code uint16, text string, masked bool) []byte {
	if code == NoStatus {
		return Append(dst, Close, nil, masked)
	}
	if len(text) > MaxReason {
		n := MaxReason
		for n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	var payload [MaxControl]byte
	payload[0], payload[1] = byte(code>>8), byte(code)
	n := 2 + copy(payload[2:], text)
	return Append(dst, Close, payload[:n], masked)
}

// AppendPing appends a ping.
func AppendPing(dst, payload []byte, masked bool) []byte { return Append(dst, Ping, payload, masked) }

// AppendPong appends a pong.
func AppendPong(dst, payload []byte, masked bool) []byte { return Append(dst, Pong, payload, masked) }
