package frame

import "encoding/binary"

// A Header is one frame's header.
type Header struct {
	Fin    bool
	RSV    byte // RSV1..3 as they stand in the first byte: 0x40, 0x20, 0x10
	Op     Opcode
	Masked bool
	Mask   [4]byte
	Length int64
}

// ParseHeader reads the header at the start of p and says how long it is, 0
// when p holds only part of it. It checks what a header alone can break: the
// length's form (§5.2: minimal, most significant bit 0). Error is *Error.
func ParseHeader(p []byte) (h Header, n int, err error) {
	if len(p) < 2 {
		return h, 0, nil
	}
	n = 2
	length := uint64(p[1] & 0x7f)
	switch length {
	case 126:
		n = 4
		if len(p) < n {
			return h, 0, nil
		}
		length = uint64(binary.BigEndian.Uint16(p[2:]))
		if length < 126 {
			return h, 0, errLengthForm
		}
	case 127:
		n = 10
		if len(p) < n {
			return h, 0, nil
		}
		length = binary.BigEndian.Uint64(p[2:])
		if length>>63 != 0 {
			return h, 0, errLengthBit
		}
		if length < 1<<16 {
			return h, 0, errLengthForm
		}
	}
	if p[1]&0x80 != 0 {
		if len(p) < n+4 {
			return h, 0, nil
		}
		h.Masked = true
		h.Mask = [4]byte(p[n : n+4])
		n += 4
	}
	h.Fin = p[0]&0x80 != 0
	h.RSV = p[0] & 0x70
	h.Op = Opcode(p[0] & 0x0f)
	h.Length = int64(length)
	return h, n, nil
}

// AppendHeader appends h to dst, its length in minimal form.
func AppendHeader(dst []byte, h Header) []byte {
	b := byte(h.Op)&0x0f | h.RSV&0x70
	if h.Fin {
		b |= 0x80
	}
	var m byte
	if h.Masked {
		m = 0x80
	}
	switch {
	case h.Length < 126:
		dst = append(dst, b, m|byte(h.Length))
	case h.Length < 1<<16:
		dst = append(dst, b, m|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(h.Length))
	default:
		dst = append(dst, b, m|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(h.Length))
	}
	if h.Masked {
		dst = append(dst, h.Mask[:]...)
	}
	return dst
}

// Mask masks or unmasks p in place (§5.3): p starts pos bytes into the
// payload. It returns the position after p, modulo 4.
func Mask(p []byte, key [4]byte, pos int) int {
	end := (pos + len(p)) & 3
	if len(p) >= 16 {
		for pos&3 != 0 {
			p[0] ^= key[pos&3]
			p = p[1:]
			pos++
		}
		k := uint64(binary.LittleEndian.Uint32(key[:]))
		k |= k << 32
		for len(p) >= 8 {
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
			p = p[8:]
		}
		pos = 0
	}
	for i := range p {
		p[i] ^= key[(pos+i)&3]
	}
	return end
}
