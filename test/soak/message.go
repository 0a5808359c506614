//go:build unix

package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/rand/v2"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// A message tells the upstream what to do with it, and everybody whether it is
// whole:
//
//	command 1, forbidden 1, client 8, number 8, checksum of all else 4, filling
//
// As text it is the same in hex.
type msg struct {
	command   byte
	forbidden bool // its connection had been ended before it was sent
	client    uint64
	number    uint64
}

// Commands.
const (
	cmdEcho  = 'e'
	cmdBurst = 'b' // and then send a lot
	cmdReset = 'r' // and then RST
	cmdGone  = 'g' // and then a FIN without a close frame
	cmdClose = 'c' // and then a close frame of the upstream's own
)

const msgHead = 22

func (m msg) bytes(filling int, text bool, r *rand.Rand) []byte {
	b := make([]byte, msgHead+filling)
	b[0] = m.command
	if m.forbidden {
		b[1] = 1
	}
	binary.BigEndian.PutUint64(b[2:], m.client)
	binary.BigEndian.PutUint64(b[10:], m.number)
	for i := msgHead; i < len(b); i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], r.Uint64())
		copy(b[i:], word[:])
	}
	binary.BigEndian.PutUint32(b[18:], msgSum(b))
	if text {
		return hex.AppendEncode(nil, b)
	}
	return b
}

func msgSum(b []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(b[:18]), crc32.IEEETable, b[msgHead:])
}

func parseMsg(op frame.Opcode, b []byte) (m msg, err error) {
	if op == frame.Text {
		if b, err = hex.DecodeString(string(b)); err != nil {
			return m, err
		}
	}
	if len(b) < msgHead || binary.BigEndian.Uint32(b[18:]) != msgSum(b) {
		return m, errors.New("the checksum does not fit")
	}
	return msg{b[0], b[1] == 1, binary.BigEndian.Uint64(b[2:]), binary.BigEndian.Uint64(b[10:])}, nil
}

// fragments cuts a message into frames. between are put into its gaps.
func fragments(op frame.Opcode, b []byte, masked bool, parts int, r *rand.Rand) [][]byte {
	var out [][]byte
	for i := range parts {
		n := len(b)
		if i < parts-1 {
			n = r.IntN(len(b) + 1) // an empty frame is one too
		}
		h := frame.Header{Fin: i == parts-1, Op: op, Length: int64(n), Masked: masked}
		if i > 0 {
			h.Op = frame.Continuation
		}
		if masked {
			binary.LittleEndian.PutUint32(h.Mask[:], r.Uint32())
		}
		f := frame.AppendHeader(make([]byte, 0, frame.MaxHeader+n), h)
		at := len(f)
		f = append(f, b[:n]...)
		if masked {
			frame.Mask(f[at:], h.Mask, 0)
		}
		out, b = append(out, f), b[n:]
	}
	return out
}
