package frame_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

func TestRFC6455Section57Examples(t *testing.T) {
	for want, got := range map[string][]byte{
		"810548656c6c6f":         frame.Append(nil, frame.Text, []byte("Hello"), false),
		"890548656c6c6f":         frame.AppendPing(nil, []byte("Hello"), false),
		"8a0548656c6c6f":         frame.AppendPong(nil, []byte("Hello"), false),
		"88050bb8627965":         frame.AppendClose(nil, 3000, "bye", false),
		"8800":                   frame.AppendClose(nil, frame.NoStatus, "ignored", false),
		"818537fa213d7f9f4d5158": raw(0x81, true, "Hello"),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("got %x, want %s", got, want)
		}
	}
}

func TestFRM04FreshMasks(t *testing.T) {
	seen := map[[4]byte]bool{}
	for range 1000 {
		b := frame.AppendClose(nil, 1001, "idle", true)
		h, n, err := frame.ParseHeader(b)
		if err != nil || !h.Masked || n != 6 {
			t.Fatalf("%+v %d %v", h, n, err)
		}
		seen[h.Mask] = true
		code, text, err := frame.ParseClose(frame.AppendPayload(nil, b))
		if code != 1001 || text != "idle" || err != nil {
			t.Fatalf("unmasked to %d %q %v", code, text, err)
		}
	}
	if len(seen) < 998 { // two equal among a thousand of 2^32: one in 8600
		t.Errorf("only %d masks of 1000 differ", len(seen))
	}
}

func TestFRM07CloseCodes(t *testing.T) {
	legal := func(c int) bool {
		return c >= 1000 && c <= 1014 && c != 1004 && c != 1005 && c != 1006 || c >= 3000 && c <= 4999
	}
	for c := range 1 << 16 {
		_, _, err := frame.ParseClose([]byte{byte(c >> 8), byte(c)})
		if (err == nil) != legal(c) || frame.LegalCode(uint16(c)) != legal(c) {
			t.Errorf("close code %d: %v", c, err)
		}
	}
	if code, _, err := frame.ParseClose(nil); code != frame.NoStatus || err != nil {
		t.Errorf("empty close: %d %v", code, err)
	}
	if _, _, err := frame.ParseClose([]byte{3}); !errors.Is(err, frame.ErrProtocol) {
		t.Errorf("one byte: %v", err)
	}
	if _, _, err := frame.ParseClose([]byte("\x03\xe8\xff")); !errors.Is(err, frame.ErrPayload) {
		t.Errorf("reason not UTF-8: %v", err)
	}
}

func TestSES19ReasonFitsAndStaysUTF8(t *testing.T) {
	b := frame.AppendClose(nil, 3000, strings.Repeat("€", 60), false)
	if len(b) > 2+frame.MaxControl {
		t.Fatalf("close frame of %d bytes", len(b))
	}
	_, text, err := frame.ParseClose(frame.AppendPayload(nil, b))
	if err != nil || !utf8.ValidString(text) || len(text) < 120 {
		t.Errorf("%q %v", text, err)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, length := range []int64{0, 1, 125, 126, 65535, 65536, 1 << 40, 1<<63 - 1} {
		for _, masked := range []bool{true, false} {
			want := frame.Header{Fin: true, RSV: 0x40, Op: frame.Binary, Masked: masked, Length: length}
			if masked {
				want.Mask = key
			}
			b := frame.AppendHeader(nil, want)
			for cut := range len(b) {
				if _, n, err := frame.ParseHeader(b[:cut]); n != 0 || err != nil {
					t.Errorf("%d of %d bytes: %d, %v", cut, len(b), n, err)
				}
			}
			if got, n, err := frame.ParseHeader(b); got != want || n != len(b) || err != nil {
				t.Errorf("%+v: %+v %d %v", want, got, n, err)
			}
		}
	}
}

func TestMaskAnyAlignment(t *testing.T) {
	for n := range 70 {
		for pos := range 5 {
			b, want := make([]byte, n), make([]byte, n)
			for i := range b {
				b[i] = byte(i)
				want[i] = byte(i) ^ key[(pos+i)%4]
			}
			if end := frame.Mask(b, key, pos); end != (pos+n)%4 || !bytes.Equal(b, want) {
				t.Fatalf("%d bytes from %d: %x, position %d", n, pos, b, end)
			}
		}
	}
}

func FuzzUTF8(f *testing.F) {
	for _, s := range []string{"", "κόσμε", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80", "aaaaaaaaa€aaaaaaaaaaaaaaa\xff", "\xf0\x9f\x92\xa9"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			cut = len(b) / 2
		}
		var u frame.UTF8
		ok := u.Add(b[:cut]) && u.Add(b[cut:]) && u.Done()
		if ok != utf8.Valid(b) {
			t.Fatalf("%x: %v, want %v", b, ok, !ok)
		}
	})
}

type pipe struct {
	io.Reader
	bytes.Buffer
}

func (p *pipe) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.Buffer.Write(b) }

func TestReaderWholeMessages(t *testing.T) {
	in := join(raw(0x01, true, `{"wsb`), raw(0x89, true, "you?"), raw(0x8a, true, ""), raw(0x00, true, ""), raw(0x80, true, `ouncer":1}`),
		raw(0x82, true, ""), raw(0x81, true, "next"), []byte{0x82})
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader, "by halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			p := &pipe{Reader: wrap(bytes.NewReader(in))}
			r := frame.NewReader(p, checked)
			for _, want := range []struct {
				op   frame.Opcode
				text string
			}{{frame.Text, `{"wsbouncer":1}`}, {frame.Binary, ""}, {frame.Text, "next"}} {
				op, got, err := r.Next()
				if op != want.op || string(got) != want.text || err != nil {
					t.Fatalf("%v %q %v, want %q", op, got, err, want.text)
				}
			}
			if want := frame.AppendPong(nil, []byte("you?"), false); !bytes.Equal(p.Bytes(), want) {
				t.Errorf("answered %x, want %x", p.Bytes(), want)
			}
			if name == "at once" && !bytes.Equal(r.Buffered(), []byte{0x82}) {
				t.Errorf("left over %x", r.Buffered())
			}
			if _, _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

func TestReaderViolations(t *testing.T) {
	for name, c := range map[string]struct {
		in   []byte
		kind error
	}{
		"unmasked":       {raw(0x81, false, "x"), frame.ErrProtocol},
		"too big":        {raw(0x81, true, strings.Repeat("x", 65)), frame.ErrTooBig},
		"sum too big":    {join(raw(0x01, true, strings.Repeat("x", 60)), raw(0x80, true, "123456")), frame.ErrTooBig},
		"claims 2^62":    {[]byte{0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0}, frame.ErrTooBig},
		"not UTF-8":      {raw(0x81, true, "\xff"), frame.ErrPayload},
		"big ping":       {[]byte{0x89, 0xfe}, frame.ErrProtocol},
		"bad close":      {raw(0x88, true, "\x03\xed"), frame.ErrProtocol},
		"flood of pings": {bytes.Repeat(raw(0x89, true, "x"), 1000), frame.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pipe{Reader: iotest.HalfReader(bytes.NewReader(c.in))}
			_, _, err := frame.NewReader(p, frame.Options{FromClient: true, MaxMessage: 64, CheckUTF8: true}).Next()
			if !errors.Is(err, c.kind) {
				t.Fatalf("%v, want %v", err, c.kind)
			}
			if p.Len() > 100*frame.MaxControlFrame {
				t.Errorf("DOS-06: %d bytes of answers", p.Len())
			}
		})
	}
	p := &pipe{Reader: bytes.NewReader(raw(0x88, true, "\x03\xe9bye"))}
	_, _, err := frame.NewReader(p, fromClient).Next()
	if e := (*frame.CloseError)(nil); !errors.As(err, &e) || e.Code != 1001 || e.Text != "bye" {
		t.Errorf("close: %v", err)
	}
	if _, _, err := frame.NewReader(&pipe{Reader: strings.NewReader("")}, fromClient).Next(); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
}

func BenchmarkScan(b *testing.B) {
	for name, size := range map[string]int{"128B": 128, "512B": 512, "4KiB": 4096} {
		for _, o := range []frame.Options{fromClient, checked} {
			label := name
			if o.CheckUTF8 {
				label += "/utf8"
			}
			b.Run(label, func(b *testing.B) {
				one := raw(0x81, true, strings.Repeat("x", size))
				buf := bytes.Repeat(one, 32768/len(one))
				frames := int64(len(buf) / len(one))
				s := frame.NewScanner(o)
				b.SetBytes(int64(len(one)))
				b.ReportAllocs()
				for done := int64(0); done < int64(b.N); done += frames {
					if n, _, err := s.Scan(buf); n != len(buf) || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

func BenchmarkScanPings(b *testing.B) {
	one := raw(0x89, true, "")
	s := frame.NewScanner(fromClient)
	b.ReportAllocs()
	for range b.N {
		if _, c, err := s.Scan(one); c.Op != frame.Ping || err != nil {
			b.Fatal(err)
		}
	}
}

func TestScanAllocatesNothing(t *testing.T) {
	b := stream(rand.New(rand.NewPCG(5, 6)), 20, true)
	s := frame.NewScanner(unlimited)
	if n := testing.AllocsPerRun(100, func() {
		s = frame.NewScanner(unlimited)
		for rest := b; len(rest) > 0; {
			n, _, err := s.Scan(rest)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			rest = rest[n:]
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
