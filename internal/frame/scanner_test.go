package frame_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

var key = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// raw is a frame as a client (masked) or a server sends it, legal or not.
func raw(first byte, masked bool, payload string) []byte {
	h := frame.Header{Fin: first&0x80 != 0, RSV: first & 0x70, Op: frame.Opcode(first & 15), Masked: masked, Mask: key, Length: int64(len(payload))}
	b := frame.AppendHeader(nil, h)
	n := len(b)
	b = append(b, payload...)
	if masked {
		frame.Mask(b[n:], key, 0)
	}
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// outcome is what a scanner says of a whole direction however it is cut.
type outcome struct {
	passed   int
	controls []refFrame
	err      error
	scanner  frame.Scanner
}

// scan feeds b in the pieces that cut says, keeping what is left over as every
// caller must.
func scan(t testing.TB, b []byte, o frame.Options, cut func(left int) int) outcome {
	t.Helper()
	var out outcome
	out.scanner = frame.NewScanner(o)
	s := &out.scanner
	at, have := 0, 0
	for have < len(b) {
		have += cut(len(b) - have)
		for {
			p := b[at:have]
			before := bytes.Clone(p)
			left := s.Left()
			n, c, err := s.Scan(p)
			if !bytes.Equal(before, p) {
				t.Fatal("the scanner altered its input")
			}
			if got := frame.NextBoundary(p[:n], left, n) - int64(n); got != min(s.Left(), math.MaxInt64-int64(n)) {
				t.Fatalf("NextBoundary says %d bytes are left, the scanner %d", got, s.Left())
			}
			at += n
			if err != nil || s.Closed() {
				out.err = err
				out.passed = at
				if c.Op != 0 {
					out.controls = append(out.controls, refFrame{c.Op, at - c.Len, at})
				}
				if n, c, err := s.Scan(b[at:]); n != 0 || c.Op != 0 || err != nil {
					t.Fatalf("after the end the scanner took %d bytes more, %v", n, err)
				}
				return out
			}
			if c.Op == 0 {
				break
			}
			out.controls = append(out.controls, refFrame{c.Op, at - c.Len, at})
		}
		if rest := have - at; rest >= frame.MaxControlFrame {
			t.Fatalf("%d bytes are held back", rest)
		}
	}
	out.passed = at
	return out
}

func whole(left int) int { return left }

func compare(t testing.TB, b []byte, o frame.Options, got outcome, want verdict) {
	t.Helper()
	var kind error
	if e := (*frame.Error)(nil); errors.As(got.err, &e) {
		kind = e.Kind
	}
	if kind != want.kind {
		t.Fatalf("%+v: verdict %v, the reference says %v\n% x", o, got.err, want.kind, b)
	}
	if kind == nil && got.passed != want.passable {
		t.Fatalf("%+v: %d bytes passed, the reference says %d\n% x", o, got.passed, want.passable, b)
	}
	if (kind == frame.ErrProtocol || kind == frame.ErrTooBig) && got.passed != want.passable {
		t.Fatalf("%+v: %d bytes passed before %v, the reference says %d", o, got.passed, got.err, want.passable)
	}
	if kind == frame.ErrPayload && got.passed < want.passable {
		t.Fatalf("%+v: only %d bytes passed before %v, the reference says %d", o, got.passed, got.err, want.passable)
	}
	var controls []refFrame
	messages := int64(0)
	for _, f := range want.frames {
		if f.op.IsControl() {
			controls = append(controls, f)
		} else if b[f.start]&0x80 != 0 {
			messages++
		}
	}
	if len(controls) != len(got.controls) {
		t.Fatalf("%d control frames, the reference says %d", len(got.controls), len(controls))
	}
	for i := range controls {
		if controls[i] != got.controls[i] {
			t.Fatalf("control frame %+v, the reference says %+v", got.controls[i], controls[i])
		}
	}
	if got.scanner.Controls() != int64(len(controls)) {
		t.Fatalf("counted %d control frames of %d", got.scanner.Controls(), len(controls))
	}
	if m := got.scanner.Messages(); kind == nil && m != messages && m != messages+1 {
		t.Fatalf("counted %d messages of %d", m, messages)
	}
}

var (
	fromClient = frame.Options{FromClient: true, MaxMessage: 1 << 20}
	fromServer = frame.Options{MaxMessage: 1 << 20}
	checked    = frame.Options{FromClient: true, MaxMessage: 1 << 20, CheckUTF8: true}
	compressed = frame.Options{FromClient: true, MaxMessage: 1 << 20, CheckUTF8: true, Compression: true}
	unlimited  = frame.Options{FromClient: true}
	everyKind  = []frame.Options{
		fromClient, fromServer, checked, compressed, unlimited, {FromClient: true, MaxMessage: 10},
		{MaxMessage: 1 << 20, CheckUTF8: true}, {MaxMessage: 200, CheckUTF8: true, Compression: true}, {Compression: true}, {FromClient: true, MaxMessage: 200, Compression: true},
	}
)

type scanCase struct {
	name string
	o    frame.Options
	in   []byte
	want error
	what string // part of the error's words
}

func scanCases() []scanCase {
	p, big, text := frame.ErrProtocol, frame.ErrTooBig, frame.ErrPayload
	head := func(b ...byte) []byte { return b }
	return []scanCase{
		{"text", fromClient, raw(0x81, true, "Hello"), nil, ""},
		{"text from the server", fromServer, raw(0x81, false, "Hello"), nil, ""},
		{"fragments with a ping between", fromClient, join(raw(0x01, true, "Hel"), raw(0x89, true, "x"), raw(0x80, true, "lo")), nil, ""},
		{"lengths of two and eight bytes", fromServer, join(raw(0x82, false, strings.Repeat("x", 126)), raw(0x82, false, strings.Repeat("x", 65536))), nil, ""},
		{"close", fromClient, raw(0x88, true, "\x03\xe8bye"), nil, ""},
		{"data after close", fromClient, join(raw(0x88, true, ""), raw(0xff, false, "junk")), nil, ""},
		{"FRM-04 unmasked from a client", fromClient, raw(0x81, false, "Hello"), p, "masked"},
		{"FRM-04 unmasked, known by two bytes", fromClient, head(0x81, 0x05), p, "masked"},
		{"FRM-04 masked from a server", fromServer, raw(0x81, true, "Hello"), p, "masked"},
		{"FRM-04 unmasked ping", fromClient, raw(0x89, false, ""), p, "masked"},
		{"FRM-05 RSV1", fromClient, raw(0xc1, true, "x"), p, "reserved bit"},
		{"FRM-05 RSV2 with compression", compressed, raw(0xa1, true, "x"), p, "reserved bit"},
		{"FRM-05 RSV1 on a control frame with compression", compressed, raw(0xc9, true, "x"), p, "reserved bit"},
		{"FRM-05 RSV1 on a continuation", compressed, join(raw(0x41, true, "x"), raw(0xc0, true, "x")), p, "reserved bit"},
		{"RSV1 with compression", compressed, raw(0xc1, true, "\xff\xfe"), nil, ""},
		{"FRM-05 opcode 3", fromClient, raw(0x83, true, "x"), p, "opcode"},
		{"FRM-05 opcode 7, known by two bytes", fromClient, head(0x87, 0xfe), p, "opcode"},
		{"FRM-05 opcode 11", fromClient, raw(0x8b, true, "x"), p, "opcode"},
		{"FRM-05 opcode 15", fromClient, raw(0x8f, true, ""), p, "opcode"},
		{"FRM-05 fragmented ping", fromClient, raw(0x09, true, "x"), p, "fragmented control"},
		{"FRM-05 ping of 126 bytes", fromClient, raw(0x89, true, strings.Repeat("x", 126)), p, "125"},
		{"FRM-05 ping that claims 126, known by two bytes", fromClient, head(0x89, 0xfe), p, "125"},
		{"FRM-05 close of 126 bytes", fromServer, raw(0x88, false, strings.Repeat("x", 126)), p, "125"},
		{"FRM-05 continuation of nothing", fromClient, raw(0x80, true, "x"), p, "continuation"},
		{"FRM-05 continuation after a whole message", fromClient, join(raw(0x81, true, "x"), raw(0x80, true, "x")), p, "continuation"},
		{"FRM-05 text inside a message", fromClient, join(raw(0x01, true, "x"), raw(0x81, true, "x")), p, "inside"},
		{"FRM-05 binary inside a message", fromClient, join(raw(0x01, true, "x"), raw(0x82, true, "x")), p, "inside"},
		{"FRM-08 five bytes in the two-byte form", fromClient, head(0x81, 0xfe, 0, 5, 1, 2, 3, 4), p, "shortest"},
		{"FRM-08 125 bytes in the two-byte form, mask not there yet", fromClient, head(0x81, 0xfe, 0, 125), p, "shortest"},
		{"FRM-08 65535 bytes in the eight-byte form", fromServer, head(0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff), p, "shortest"},
		{"FRM-08 2^63", unlimited, head(0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0), p, "63 bits"},
		{"FRM-08 2^64-1", fromServer, head(0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), p, "63 bits"},
		{"FRM-08 2^63-1 over a limit", fromServer, head(0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), big, "limit"},
		{"FRM-08 2^31 over a limit", fromClient, head(0x82, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0), big, "limit"},
		{"FRM-08 2^63-1 without a limit", unlimited, head(0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4), nil, ""},
		{"FRM-08 the sum of fragments above 63 bits", unlimited, join(raw(0x02, true, "x"),
			head(0x00, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4)), big, "limit"},
		{"DOS-01 the sum of fragments", frame.Options{FromClient: true, MaxMessage: 10}, join(raw(0x01, true, "123456"), raw(0x00, true, "7890"), raw(0x80, true, "!")), big, "limit"},
		{"exactly the limit", frame.Options{FromClient: true, MaxMessage: 10}, join(raw(0x01, true, "123456"), raw(0x80, true, "7890")), nil, ""},
		{"the limit is a message's, not the connection's", frame.Options{FromClient: true, MaxMessage: 4}, bytes.Repeat(raw(0x81, true, "1234"), 9), nil, ""},
		{"FRM-06 not UTF-8", checked, raw(0x81, true, "\xff"), text, "UTF-8"},
		{"FRM-06 surrogate", checked, raw(0x81, true, "\xed\xa0\x80"), text, "UTF-8"},
		{"FRM-06 overlong", checked, raw(0x81, true, "\xc0\xaf"), text, "UTF-8"},
		{"FRM-06 above U+10FFFF", checked, raw(0x81, true, "\xf4\x90\x80\x80"), text, "UTF-8"},
		{"FRM-06 cut character at the end", checked, raw(0x81, true, "abcdefgh\xe2\x82"), text, "UTF-8"},
		{"FRM-06 a character over three fragments", checked, join(raw(0x01, true, "\xe2"), raw(0x00, true, "\x82"), raw(0x89, true, "\xff"), raw(0x80, true, "\xac")), nil, ""},
		{"FRM-06 a character never finished, empty last frame", checked, join(raw(0x01, true, "\xe2\x82"), raw(0x80, true, "")), text, "UTF-8"},
		{"FRM-06 seen before the message ends", checked, raw(0x01, true, "\xf4\x90"), text, "UTF-8"},
		{"binary is not checked", checked, raw(0x82, true, "\xff"), nil, ""},
		{"text is not checked unless asked", fromClient, raw(0x81, true, "\xff"), nil, ""},
	}
}

func TestFRM02FRM05FRM08ScannerVerdicts(t *testing.T) {
	for _, c := range scanCases() {
		t.Run(c.name, func(t *testing.T) {
			want := reference(c.in, c.o)
			if want.kind != c.want {
				t.Fatalf("the reference itself says %v", want.kind)
			}
			got := scan(t, c.in, c.o, whole)
			compare(t, c.in, c.o, got, want)
			if c.what != "" && (got.err == nil || !strings.Contains(got.err.Error(), c.what)) {
				t.Errorf("error %v does not say %q", got.err, c.what)
			}
			compare(t, c.in, c.o, scan(t, c.in, c.o, func(int) int { return 1 }), want)
			splits := min(len(c.in), 300)
			if len(c.in) > 1000 {
				splits = 20
			}
			for first := 1; first < splits; first++ {
				n := 0
				compare(t, c.in, c.o, scan(t, c.in, c.o, func(left int) int {
					if n++; n == 1 {
						return first
					}
					return left
				}), want)
			}
		})
	}
}

func TestFRM08ErrorCodes(t *testing.T) {
	for kind, code := range map[error]uint16{frame.ErrProtocol: 1002, frame.ErrPayload: 1007, frame.ErrTooBig: 1009} {
		if got := (&frame.Error{Kind: kind}).Code(); got != code {
			t.Errorf("%v: close code %d, want %d", kind, got, code)
		}
	}
}

func TestDOS01EndlessFragments(t *testing.T) {
	for name, payload := range map[string]string{"empty": "", "one byte": "x"} {
		t.Run(name, func(t *testing.T) {
			s := frame.NewScanner(frame.Options{FromClient: true, MaxMessage: 1 << 30})
			if _, _, err := s.Scan(raw(0x01, true, "x")); err != nil {
				t.Fatal(err)
			}
			piece := raw(0x00, true, payload)
			for i := range 1 << 20 {
				if _, _, err := s.Scan(piece); err != nil {
					if !errors.Is(err, frame.ErrTooBig) || i < 10_000 {
						t.Fatalf("after %d fragments: %v", i, err)
					}
					return
				}
			}
			t.Fatal("a million fragments passed")
		})
	}
	// What Autobahn sends: 4 MiB in fragments of 64 bytes.
	s := frame.NewScanner(frame.Options{FromClient: true})
	first := byte(0x02)
	for range 65536 {
		if _, _, err := s.Scan(raw(first, true, strings.Repeat("x", 64))); err != nil {
			t.Fatal(err)
		}
		first = 0x00
	}
}

// stream makes a legal direction of n random frames, each with a mask of its own.
func stream(r *rand.Rand, n int, fromClient bool) []byte {
	raw := func(first byte, masked bool, payload string) []byte {
		b := raw(first, masked, payload)
		if masked {
			h, n, _ := frame.ParseHeader(b)
			frame.Mask(b[n:], h.Mask, 0)
			binary.BigEndian.PutUint32(h.Mask[:], r.Uint32())
			copy(b[n-4:n], h.Mask[:])
			frame.Mask(b[n:], h.Mask, 0)
		}
		return b
	}
	var b []byte
	open := false
	for range n {
		payload := strings.Repeat("é", r.IntN(40))
		if r.IntN(8) == 0 {
			payload = strings.Repeat("€", r.IntN(30000))
		}
		switch r.IntN(6) {
		case 0:
			b = append(b, raw(0x89+byte(r.IntN(2)), fromClient, payload[:min(len(payload), 120)])...)
		default:
			first := byte(r.IntN(2)) << 7
			if !open {
				first |= 1 + byte(r.IntN(2))
			}
			open = first&0x80 == 0
			b = append(b, raw(first, fromClient, payload)...)
		}
	}
	return b
}

func TestFRM09RandomStreamsAtRandomSplits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		for _, o := range []frame.Options{fromClient, fromServer, checked, {MaxMessage: 1 << 20, CheckUTF8: true}} {
			b := stream(r, 1+r.IntN(30), o.FromClient)
			want := reference(b, o)
			if want.kind != nil && want.kind != frame.ErrTooBig {
				t.Fatal(want.kind)
			}
			compare(t, b, o, scan(t, b, o, func(left int) int { return 1 + r.IntN(left) }), want)
			compare(t, b, o, scan(t, b, o, func(left int) int { return 1 + r.IntN(min(left, 20)) }), want)
		}
	}
}

func TestNextBoundaryInsideAndBeyond(t *testing.T) {
	b := join(raw(0x82, true, "12345"), raw(0x81, true, strings.Repeat("x", 200)), raw(0x89, true, ""))
	first, second := int64(11), int64(11+8+200)
	for k := 0; k <= len(b); k++ {
		want := second + 6
		switch {
		case k == 0:
			want = 0
		case int64(k) <= first:
			want = first
		case int64(k) <= second:
			want = second
		}
		if got := frame.NextBoundary(b, 0, k); got != want {
			t.Fatalf("boundary after %d: %d, want %d", k, got, want)
		}
	}
	if got := frame.NextBoundary([]byte("abc"), 10, 2); got != 10 {
		t.Errorf("boundary of a frame that began earlier: %d", got)
	}
}

func FuzzScanner(f *testing.F) {
	for i, c := range scanCases() {
		if len(c.in) < 1000 {
			f.Add(c.in, uint8(i), uint64(i))
		}
	}
	f.Add(stream(rand.New(rand.NewPCG(3, 4)), 12, true), uint8(2), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8, seed uint64) {
		if len(b) > 1<<16 {
			return
		}
		o := everyKind[int(kind)%len(everyKind)]
		want := reference(b, o)
		compare(t, b, o, scan(t, b, o, whole), want)
		compare(t, b, o, scan(t, b, o, func(int) int { return 1 }), want)
		r := rand.New(rand.NewPCG(seed, 1))
		compare(t, b, o, scan(t, b, o, func(left int) int { return 1 + r.IntN(left) }), want)
		// Every split in two.
		for first := 1; first < min(len(b), 64); first++ {
			n := 0
			compare(t, b, o, scan(t, b, o, func(left int) int {
				if n++; n == 1 {
					return first
				}
				return left
			}), want)
		}
	})
}
