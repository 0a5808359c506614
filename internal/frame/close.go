package frame

import "unicode/utf8"

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

var (
	errCloseShort = &Error{ErrProtocol, "close frame with one byte of payload"}
	errCloseCode  = &Error{ErrProtocol, "close code that may not be sent"}
	errCloseText  = &Error{ErrPayload, "close reason that is not UTF-8"}
)
