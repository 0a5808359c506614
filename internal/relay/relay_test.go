package relay_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

func closePayload(code uint16, text string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + text
}

func TestFRM09PassesFramesAsTheyCame(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		first, early := up(frame.Text, "before the relay began"), down(frame.Text, "so was this")
		r := newRig(t, kind, func(c *relay.Config) {
			c.FromClient = append([]byte{}, first[:len(first)-3]...)
			c.FromUpstream = append([]byte{}, early...)
		})
		expect(t, r.upstream, first[:len(first)-3])
		expect(t, r.client, early)
		send(t, r.client, first[len(first)-3:])
		expect(t, r.upstream, first[len(first)-3:])
		for _, b := range [][]byte{
			up(frame.Text, "hello"), up(frame.Binary, ""), up(frame.Ping, "you?"), up(frame.Pong, ""),
			bytes.Join([][]byte{part(frame.Text, false, true, "a"), up(frame.Ping, ""), part(0, true, true, "b")}, nil),
			up(frame.Binary, strings.Repeat("x", 100)),
		} {
			send(t, r.client, b)
			expect(t, r.upstream, b)
		}
		send(t, r.upstream, down(frame.Text, "there"))
		expect(t, r.client, down(frame.Text, "there"))

		// A header and a control frame in pieces arrive whole or not at all.
		ping := up(frame.Ping, strings.Repeat("p", 125))
		for _, b := range ping {
			send(t, r.client, []byte{b})
		}
		expect(t, r.upstream, ping)

		send(t, r.client, up(frame.Close, closePayload(4001, "bye")))
		h, payload := readFrame(t, r.upstream)
		if h.Op != frame.Close || payload != closePayload(4001, "bye") {
			t.Fatalf("upstream got %d %q", h.Op, payload)
		}
		send(t, r.upstream, down(frame.Text, "one last thing"), down(frame.Close, closePayload(4002, "so long")))
		expect(t, r.client, down(frame.Text, "one last thing"))
		expectClose(t, r.client, 4002, "so long", nothing)
		expectEnd(t, r.upstream)
		e := r.wait()
		if e.end != (reason.End{Code: 4001, Text: "bye"}) || e.stats.By != relay.Client {
			t.Errorf("ended %+v by %v", e.end, e.stats.By)
		}
		if s := e.stats; s.ClientMessages != 5 || s.UpstreamMessages != 3 || s.ClientBytes < 200 || s.UpstreamBytes < 40 {
			t.Errorf("counted %+v", s)
		}
	})
}

func TestFRM07CloseCodesPassInBothDirections(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		for _, code := range []uint16{1000, 1001, 1003, 1011, 1013, 3000, 4999, frame.NoStatus} {
			payload, text := closePayload(code, "why"), "why"
			if code == frame.NoStatus {
				payload, text = "", ""
			}
			r := newRig(t, kind, nil)
			send(t, r.upstream, down(frame.Close, payload))
			expectClose(t, r.client, code, text, up(frame.Close, payload))
			expectClose(t, r.upstream, code, text, nothing)
			if e := r.wait(); e.end != (reason.End{Code: code, Text: text}) || e.stats.By != relay.Upstream {
				t.Errorf("%d: ended %+v by %v", code, e.end, e.stats.By)
			}
		}
	})
}

func TestFRM07IllegalCloseBecomes1002(t *testing.T) {
	for name, c := range map[string]struct {
		payload string
		end     reason.End
	}{
		"1005":             {closePayload(1005, ""), reason.ProtocolError},
		"1006":             {closePayload(1006, ""), reason.ProtocolError},
		"1015":             {closePayload(1015, ""), reason.ProtocolError},
		"999":              {closePayload(999, ""), reason.ProtocolError},
		"5000":             {closePayload(5000, ""), reason.ProtocolError},
		"one byte":         {"\x03", reason.ProtocolError},
		"reason not UTF-8": {closePayload(1000, "\xff"), reason.InvalidPayload},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range kinds {
				r := newRig(t, kind, nil)
				send(t, r.client, up(frame.Close, c.payload))
				expectClose(t, r.client, c.end.Code, c.end.Text, hangUp)
				expectClose(t, r.upstream, c.end.Code, c.end.Text, down(frame.Close, closePayload(c.end.Code, "")))
				if e := r.wait(); e.end != c.end || e.stats.By != relay.Gateway {
					t.Errorf("ended %+v by %v", e.end, e.stats.By)
				}

				r = newRig(t, kind, nil)
				send(t, r.upstream, down(frame.Close, c.payload))
				expectClose(t, r.upstream, c.end.Code, c.end.Text, hangUp)
				expectClose(t, r.client, c.end.Code, c.end.Text, up(frame.Close, closePayload(c.end.Code, "")))
			}
		})
	}
}

func TestFRM07AbruptLoss(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		send(t, r.client, up(frame.Text, "hello"))
		readFrame(t, r.upstream)
		_ = r.client.Close()
		expectClose(t, r.upstream, 1001, "client_gone", down(frame.Close, closePayload(1001, "")))
		if e := r.wait(); e.end != reason.ClientGone || e.stats.By != relay.Client {
			t.Errorf("ended %+v by %v", e.end, e.stats.By)
		}

		r = newRig(t, kind, nil)
		send(t, r.upstream, down(frame.Text, "hello"))
		readFrame(t, r.client)
		_ = r.upstream.Close()
		expectClose(t, r.client, 1013, "upstream_gone", up(frame.Close, closePayload(1013, "")))
		if e := r.wait(); e.end != reason.UpstreamGone || e.stats.By != relay.Upstream {
			t.Errorf("ended %+v by %v", e.end, e.stats.By)
		}
	})
}

// A side that vanishes inside a frame leaves the other with half of it: no
// close frame can follow that.
func TestFRM07AbruptLossInsideAFrame(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		half := up(frame.Binary, "0123456789")[:10]
		send(t, r.client, half)
		expect(t, r.upstream, half)
		_ = r.client.Close()
		expectEnd(t, r.upstream)
		if e := r.wait(); e.end != reason.ClientGone {
			t.Errorf("ended %+v", e.end)
		}
	})
}

type violationCase struct {
	name string
	o    func(*relay.Config)
	from func(masked bool) []byte
	end  reason.End
}

func violationCases() []violationCase {
	limit := func(c *relay.Config) { c.Limits.MessageBytes = 64 }
	head := func(b ...byte) func(bool) []byte {
		return func(masked bool) []byte {
			b := append([]byte{}, b...)
			if masked {
				b[1] |= 0x80
			}
			return b
		}
	}
	first := func(b byte, payload string) func(bool) []byte {
		return func(masked bool) []byte {
			f := frame.Append(nil, frame.Binary, []byte(payload), masked)
			f[0] = b
			return f
		}
	}
	return []violationCase{
		{"FRM04 mask against the direction", nil, func(masked bool) []byte { return frame.Append(nil, frame.Text, []byte("x"), !masked) }, reason.ProtocolError},
		{"FRM05 reserved bit", nil, first(0xc1, "x"), reason.ProtocolError},
		{"FRM05 reserved opcode", nil, first(0x83, "x"), reason.ProtocolError},
		{"FRM05 reserved control opcode", nil, first(0x8b, "x"), reason.ProtocolError},
		{"FRM05 fragmented ping", nil, first(0x09, "x"), reason.ProtocolError},
		{"FRM05 big ping", nil, head(0x89, 126), reason.ProtocolError},
		{"FRM05 continuation of nothing", nil, first(0x80, "x"), reason.ProtocolError},
		{"FRM08 length not minimal", nil, head(0x82, 126, 0, 5), reason.ProtocolError},
		{"FRM08 length of 64 bits", nil, head(0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0), reason.ProtocolError},
		{"FRM08 length of 63 bits", limit, head(0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), reason.MessageTooBig},
		{"FRM08 length of 31 bits", limit, head(0x82, 127, 0, 0, 0, 0, 0x80, 0, 0, 0), reason.MessageTooBig},
		{"DOS01 one byte above the limit", limit, first(0x82, strings.Repeat("x", 65)), reason.MessageTooBig},
		{"FRM06 text not UTF-8", func(c *relay.Config) { c.CheckUTF8 = true }, first(0x81, "\xff"), reason.InvalidPayload},
	}
}

func TestFRM02FRM04FRM05FRM08Violations(t *testing.T) {
	for _, c := range violationCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range kinds {
				answer := closePayload(c.end.Code, "")
				r := newRig(t, kind, c.o)
				legal := up(frame.Text, "legal")
				go func() { _, _ = r.client.Write(append(legal, c.from(true)...)) }()
				expect(t, r.upstream, legal)
				expectClose(t, r.upstream, c.end.Code, c.end.Text, down(frame.Close, answer))
				expectClose(t, r.client, c.end.Code, c.end.Text, hangUp)
				if e := r.wait(); e.end != c.end || e.stats.By != relay.Gateway {
					t.Errorf("%s: ended %+v by %v", kind, e.end, e.stats.By)
				}

				r = newRig(t, kind, c.o)
				legal = down(frame.Text, "legal")
				go func() { _, _ = r.upstream.Write(append(legal, c.from(false)...)) }()
				expect(t, r.client, legal)
				expectClose(t, r.client, c.end.Code, c.end.Text, up(frame.Close, answer))
				expectClose(t, r.upstream, c.end.Code, c.end.Text, hangUp)
			}
		})
	}
}

func TestFRM06TextSpoiledAfterItsFrameBegan(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, func(c *relay.Config) { c.CheckUTF8 = true })
		b := up(frame.Text, "good so far \xff")
		send(t, r.client, b[:len(b)-1])
		expect(t, r.upstream, b[:len(b)-1])
		send(t, r.client, b[len(b)-1:])
		// The upstream has half a frame: it is cut. The client is told.
		expectEnd(t, r.upstream)
		expectClose(t, r.client, 1007, "invalid_payload", hangUp)
	})
}

func TestSES19PeerThatNeverAnswersIsCut(t *testing.T) {
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		began := time.Now()
		r.conn.End(reason.SessionRevoked)
		for _, c := range []interface {
			Read([]byte) (int, error)
			SetReadDeadline(time.Time) error
		}{r.client, r.upstream} {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			h, b, err := nextFrame(c)
			if err != nil || h.Op != frame.Close {
				t.Fatalf("%+v %v", h, err)
			}
			code, text, err := frame.ParseClose(frame.AppendPayload(nil, b))
			if code != 3000 || text != "session_revoked" || err != nil {
				t.Fatalf("%d %q %v", code, text, err)
			}
		}
		expectEnd(t, r.client)
		expectEnd(t, r.upstream)
		if d := time.Since(began); d < 900*time.Millisecond || d > 3*time.Second {
			t.Errorf("cut after %v", d)
		}
		if e := r.wait(); e.end != reason.SessionRevoked || e.stats.By != relay.Gateway {
			t.Errorf("ended %+v", e.end)
		}
	})
}

func TestSES19UpstreamThatNeverAnswersTheClientsClose(t *testing.T) {
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		send(t, r.client, up(frame.Close, closePayload(4001, "bye")))
		if h, payload := readFrame(t, r.upstream); h.Op != frame.Close || payload != closePayload(4001, "bye") {
			t.Fatalf("%+v %q", h, payload)
		}
		expectClose(t, r.client, 4001, "bye", nothing)
		expectEnd(t, r.upstream)
	})
}
