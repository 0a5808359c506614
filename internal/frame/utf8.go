package frame

import (
	"encoding/binary"
	"math/bits"
)

// UTF8 checks text that comes in pieces (RFC 3629, no surrogates, nothing
// overlong). The zero value is at the start of a text.
type UTF8 struct {
	need   uint8 // continuation bytes still to come
	lo, hi uint8 // what the next of them may be
}

// Add takes the next piece and reports whether the text can still be valid.
func (u *UTF8) Add(p []byte) bool {
	return u.addMasked(p, [4]byte{}, 0)
}

// addMasked is Add for a masked piece that starts pos bytes into its payload.
// The piece is left as it is.
func (u *UTF8) addMasked(p []byte, key [4]byte, pos uint8) bool {
	k32 := binary.LittleEndian.Uint32(key[:])
	k32 = bits.RotateLeft32(k32, -8*int(pos&3))
	k := uint64(k32)<<32 | uint64(k32)
	for len(p) >= 8 {
		w := binary.LittleEndian.Uint64(p) ^ k
		if u.need == 0 && w&0x8080808080808080 == 0 {
			p = p[8:]
			continue
		}
		for range 8 {
			if !u.next(byte(w)) {
				return false
			}
			w >>= 8
		}
		p = p[8:]
	}
	for i, b := range p {
		if !u.next(b ^ byte(k>>(8*i))) {
			return false
		}
	}
	return true
}

// Done reports whether the text may end here.
func (u *UTF8) Done() bool { return u.need == 0 }

func (u *UTF8) next(b byte) bool {
	if u.need > 0 {
		if b < u.lo || b > u.hi {
			return false
		}
		u.need--
		u.lo, u.hi = 0x80, 0xbf
		return true
	}
	switch {
	case b < 0x80:
		return true
	case b < 0xc2:
		return false
	case b < 0xe0:
		u.need, u.lo, u.hi = 1, 0x80, 0xbf
	case b < 0xf0:
		u.need, u.lo, u.hi = 2, 0x80, 0xbf
		switch b {
		case 0xe0:
			u.lo = 0xa0
		case 0xed:
			u.hi = 0x9f
		}
	case b < 0xf5:
		u.need, u.lo, u.hi = 3, 0x80, 0xbf
		switch b {
		case 0xf0:
			u.lo = 0x90
		case 0xf4:
			u.hi = 0x8f
		}
	default:
		return false
	}
	return true
}
