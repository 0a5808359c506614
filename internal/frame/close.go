package frame

import (
	"io"
	"unicode/utf8"
)

// LegalCode reports whether code may stand in a close frame on the wire: those
// of RFC 6455 §7.4.1 and of the IANA registry's 1000 range, and the ranges for
// registered (3000) and private (4000) use. 1004, 1005, 1006, 1015 and the
// rest of 1016–2999 never may.
func LegalCode(code uint16) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	case code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// ParseClose reads the unmasked payload of a close frame. An empty one is
// NoStatus. The error is *Error: ErrProtocol for one byte or an illegal code,
// ErrPayload for a reason that is not UTF-8.
func ParseClose(payload []byte) (code uint16, text string, err error) {
	switch {
	case len(payload) == 0:
		return NoStatus, "", nil
	case len(payload) == 1:
		return 0, "", errCloseShort
	}
	code = uint16(payload[0])<<8 | uint16(payload[1])
	if !LegalCode(code) {
		return 0, "", errCloseCode
	}
	if !utf8.Valid(payload[2:]) {
		return 0, "", errCloseText
	}
	return code, string(payload[2:]), nil
}

// AwaitClose reads on after our close frame and drops what comes, until the
// peer's own close frame has come, r ends, or about limit bytes were read: a
// socket closed over unread bytes is reset, and our close frame lost with it. s
// is where the peer's frames are, held what was read beyond it. Deadlines are
// the caller's.
func AwaitClose(r io.Reader, s Scanner, held []byte, limit int) {
	buf := make([]byte, 1024)
	for read := 0; ; {
		held = s.drop(held)
		if s.Closed() || read >= limit {
			return
		}
		k := copy(buf, held)
		n, err := r.Read(buf[k:])
		if err != nil {
			return
		}
		read += n
		held = buf[:k+n]
	}
}

// drop scans p as far as that goes and returns what must come again. After a
// violation nothing means anything any more.
func (s *Scanner) drop(p []byte) []byte {
	for {
		n, c, err := s.Scan(p)
		p = p[n:]
		if err != nil || c.Op == 0 || c.Op == Close {
			return p[:min(len(p), MaxControlFrame)]
		}
	}
}

var (
	errCloseShort = &Error{ErrProtocol, "close frame with one byte of payload"}
	errCloseCode  = &Error{ErrProtocol, "close code that may not be sent"}
	errCloseText  = &Error{ErrPayload, "close reason that is not UTF-8"}
)
