package frame_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// pieces reads b in random pieces.
type pieces struct {
	b []byte
	r *rand.Rand
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(to[:1+p.r.IntN(len(to))], p.b)
	p.b = p.b[n:]
	return n, nil
}

// FuzzReader reads a direction as whole messages and compares them with what the
// reference says of it.
func FuzzReader(f *testing.F) {
	for i, c := range scanCases() {
		if len(c.in) < 1000 {
			f.Add(c.in, uint8(i), uint64(i))
		}
	}
	f.Add(stream(rand.New(rand.NewPCG(3, 4)), 12, true), uint8(2), uint64(1))
	f.Add(bytes.Repeat(raw(0x89, true, "x"), 70), uint8(0), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8, seed uint64) {
		if len(b) > 1<<16 {
			return
		}
		o := everyKind[int(kind)%len(everyKind)]
		if o.MaxMessage == 0 {
			o.MaxMessage = 1 << 20
		}
		want := reference(b, o)
		p := &pipe{Reader: &pieces{b, rand.New(rand.NewPCG(seed, 2))}}
		r := frame.NewReader(p, o)
		var message, pongs []byte
		next, controls := 0, 0
		compare := func() {
			op, got, err := r.Next()
			if err != nil || !bytes.Equal(got, message) || op.IsControl() {
				t.Fatalf("%+v: message %d came as %v %q (%v), the reference says %q", o, next, op, got, err, message)
			}
			message = nil
			next++
		}
		for _, fr := range want.frames {
			whole := b[fr.start:fr.end]
			payload := frame.AppendPayload(nil, whole)
			switch {
			case fr.op.IsControl():
				if controls++; controls > 64 {
					if _, _, err := r.Next(); !errors.Is(err, frame.ErrProtocol) {
						t.Fatalf("after %d control frames: %v", controls, err)
					}
					return
				}
				switch fr.op {
				case frame.Ping:
					pongs = frame.Append(pongs, frame.Pong, payload, false)
				case frame.Close:
					_, _, err := r.Next()
					code, text, bad := frame.ParseClose(payload)
					var closed *frame.CloseError
					if errors.As(err, &closed) != (bad == nil) || bad == nil && (closed.Code != code || closed.Text != text) || bad != nil && !errors.Is(err, bad) {
						t.Fatalf("close frame % x: %v", payload, err)
					}
					return
				}
			default:
				message = append(message, payload...)
				if whole[0]&0x80 != 0 {
					compare()
				}
			}
		}
		_, got, err := r.Next()
		switch {
		case want.kind != nil && !errors.Is(err, want.kind):
			t.Fatalf("%+v: %q, %v, the reference says %v", o, got, err, want.kind)
		case want.kind == nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Fatalf("%+v: %q, %v at the end", o, got, err)
		}
		if o.FromClient && !bytes.Equal(p.Bytes(), pongs) { // the others' masks are random
			t.Fatalf("%+v: answered % x, want % x", o, p.Bytes(), pongs)
		}
	})
}
