package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	bits "encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

const frameRoutes = `
  - {path: /pass, upstream: "ws://UPSTREAM", limits: {message_bytes: 64KiB}}
  - {path: /check, upstream: "ws://UPSTREAM", utf8: check, limits: {message_bytes: 64KiB}}
  - {path: /inband, upstream: "ws://UPSTREAM", in_band_refresh: true, limits: {message_bytes: 64KiB}}
`

// masked is a frame of a client with a first byte and length as they are said.
func masked(first byte, length []byte, payload string) string {
	b := append([]byte{first, length[0] | 0x80}, length[1:]...)
	b = append(b, 9, 8, 7, 6)
	p := []byte(payload)
	frame.Mask(p, [4]byte{9, 8, 7, 6}, 0)
	return string(append(b, p...))
}

func plainly(first byte, payload string) string {
	return masked(first, frame.AppendHeader(nil, frame.Header{Length: int64(len(payload))})[1:], payload)
}

type violation struct {
	raw    string
	code   uint16
	text   string
	passes int // frames before the one that breaks the rule
}

// violations are what a client may not send.
func violations() map[string]violation {
	all := map[string]violation{
		"unmasked text":         {"\x81\x02hi", 1002, "protocol_error", 0},
		"unmasked ping":         {"\x89\x00", 1002, "protocol_error", 0},
		"unmasked close":        {"\x88\x02\x03\xe8", 1002, "protocol_error", 0},
		"unmasked continuation": {plainly(0x01, "x") + "\x80\x01y", 1002, "protocol_error", 1},
		"fragmented ping":       {plainly(0x09, ""), 1002, "protocol_error", 0},
		"fragmented pong":       {plainly(0x0a, "x"), 1002, "protocol_error", 0},
		"fragmented close":      {plainly(0x08, "\x03\xe8"), 1002, "protocol_error", 0},
		"ping of 126":           {plainly(0x89, strings.Repeat("x", 126)), 1002, "protocol_error", 0},
		"pong of 70000":         {plainly(0x8a, strings.Repeat("x", 70000)), 1002, "protocol_error", 0},
		"close of 126":          {plainly(0x88, "\x03\xe8"+strings.Repeat("x", 124)), 1002, "protocol_error", 0},
		"continuation of none":  {plainly(0x80, "x"), 1002, "protocol_error", 0},
		"continuation after":    {plainly(0x81, "x") + plainly(0x80, "y"), 1002, "protocol_error", 1},
		"text inside text":      {plainly(0x01, "x") + plainly(0x81, "y"), 1002, "protocol_error", 1},
		"binary inside text":    {plainly(0x01, "x") + plainly(0x00, "y") + plainly(0x82, "z"), 1002, "protocol_error", 2},
		"rsv1 on continuation":  {plainly(0x01, "x") + plainly(0xc0, "y"), 1002, "protocol_error", 1},
		"16-bit length of 5":    {masked(0x82, []byte{126, 0, 5}, "12345"), 1002, "protocol_error", 0},
		"16-bit length of 125":  {masked(0x82, []byte{126, 0, 125}, strings.Repeat("x", 125)), 1002, "protocol_error", 0},
		"64-bit length of 5":    {masked(0x82, []byte{127, 0, 0, 0, 0, 0, 0, 0, 5}, "12345"), 1002, "protocol_error", 0},
		"64-bit length of 2^16": {masked(0x82, []byte{127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, strings.Repeat("x", 1<<16-1)), 1002, "protocol_error", 0},
		"length 2^63":           {masked(0x82, []byte{127, 0x80, 0, 0, 0, 0, 0, 0, 0}, ""), 1002, "protocol_error", 0},
		"length 2^64-1":         {masked(0x82, []byte{127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ""), 1002, "protocol_error", 0},
		"length 2^63-1":         {masked(0x82, []byte{127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ""), 1009, "message_too_big", 0},
		"length 2^31":           {masked(0x82, []byte{127, 0, 0, 0, 0, 0x80, 0, 0, 0}, ""), 1009, "message_too_big", 0},
		"one above the limit":   {plainly(0x82, strings.Repeat("x", 1<<16+1)), 1009, "message_too_big", 0},
		"fragments above it":    {plainly(0x02, strings.Repeat("x", 40<<10)) + plainly(0x00, strings.Repeat("y", 20<<10)) + plainly(0x80, strings.Repeat("z", 10<<10)), 1009, "message_too_big", 2},
		"sum of 2^63":           {plainly(0x02, "xx") + masked(0x80, []byte{127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ""), 1009, "message_too_big", 1},
		"20000 empty fragments": {plainly(0x01, "") + strings.Repeat(plainly(0x00, ""), 20000), 1009, "message_too_big", -1},
		"close of one byte":     {plainly(0x88, "\x03"), 1002, "protocol_error", 0},
		"close reason no UTF-8": {plainly(0x88, "\x03\xe8\xff\xfe"), 1007, "invalid_payload", 0},
	}
	for _, bit := range []byte{0x40, 0x20, 0x10} {
		all[fmt.Sprintf("reserved bit %#x", bit)] = violation{plainly(0x81|bit, "x"), 1002, "protocol_error", 0}
		all[fmt.Sprintf("reserved bit %#x on a ping", bit)] = violation{plainly(0x89|bit, "x"), 1002, "protocol_error", 0}
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		all[fmt.Sprintf("opcode %#x", op)] = violation{plainly(0x80|op, "x"), 1002, "protocol_error", 0}
	}
	for _, code := range []uint16{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		all[fmt.Sprintf("close code %d", code)] = violation{plainly(0x88, string(bits.BigEndian.AppendUint16(nil, code))), 1002, "protocol_error", 0}
	}
	return all
}

// FRM-02, FRM-04, FRM-05, FRM-07, FRM-08: the gateway keeps the protocol itself,
// on each kind of route, whatever its upstream would take.
func TestFRM02ClientViolations(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, sink)
	s, iss := gate(t, up, frameRoutes)
	token := bearer(iss.token())
	type attempt struct {
		name, path string
		violation
		c    *client
		ends <-chan ending
	}
	var attempts []attempt
	for name, v := range violations() {
		for _, path := range []string{"/pass", "/inband"} {
			c := s.connect(path, token).text("first")
			a := attempt{name, path, v, c, c.watch()}
			// Everything behind the violation is nobody's.
			_, _ = io.WriteString(c.conn, v.raw+plainly(0x81, "behind")+plainly(0x88, "\x03\xe8"))
			attempts = append(attempts, a)
		}
	}
	// Who broke a rule is not understood any more, and has a second to close:
	// so all of them at once.
	for _, a := range attempts {
		t.Run(a.name+a.path, func(t *testing.T) {
			(<-a.ends).want(t, a.code, a.text)
			uc := up.of(a.c)
			uc.closed(a.code, a.text)
			got := uc.got()
			got = got[:len(got)-1]
			if a.passes >= 0 && a.path != "/inband" && len(got) != 1+a.passes {
				t.Errorf("the upstream received %d frames, want %d", len(got), 1+a.passes)
			}
			if len(got) == 0 || got[0].payload != "first" {
				t.Fatal("the first message is missing")
			}
			for _, m := range got {
				if m.payload == "behind" || m.op.IsControl() {
					t.Errorf("the upstream received %v %q", m.op, m.payload)
				}
			}
		})
	}
}

// FRM-04: frames pass as they came, mask and all; the gateway's own carry a
// fresh mask each.
func TestFRM04Masks(t *testing.T) {
	t.Parallel()
	var raw tally[rawFrame]
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		for {
			f, err := readRaw(c.br)
			if err != nil {
				return
			}
			raw.add(f)
			if f.Op == frame.Close {
				return
			}
		}
	})
	s, iss := gate(t, up, frameRoutes)
	c := s.connect("/pass", bearer(iss.token()))
	rng := rand.New(rand.NewPCG(1, 2))
	var sent []rawFrame
	for range 1000 {
		f := rawFrame{frame.Header{Fin: true, Op: frame.Binary, Masked: true}, make([]byte, rng.IntN(300))}
		bits.BigEndian.PutUint32(f.Mask[:], rng.Uint32())
		f.Length = int64(len(f.payload))
		for i := range f.payload {
			f.payload[i] = byte(rng.Uint32())
		}
		sent = append(sent, f)
		c.send(string(append(frame.AppendHeader(nil, f.Header), f.payload...)))
	}
	eventually(t, "all frames at the upstream", func() bool { return len(raw.list()) == len(sent) })
	for i, f := range raw.list() {
		if f.Header != sent[i].Header || !bytes.Equal(f.payload, sent[i].payload) {
			t.Fatalf("frame %d came as %+v, was sent as %+v", i, f.Header, sent[i].Header)
		}
	}

	const many = 100
	for range many - 1 {
		s.connect("/pass", bearer(iss.token()))
	}
	s.revoke(iss, "subject", "alice")
	masks := map[[4]byte]bool{{}: true}
	eventually(t, "a close frame for each", func() bool { return len(raw.list()) == len(sent)+many })
	for _, f := range raw.list()[len(sent):] {
		if f.Op != frame.Close || !f.Masked || masks[f.Mask] {
			t.Errorf("the mask %x came before, or none", f.Mask)
		}
		masks[f.Mask] = true
	}
}

// FRM-04: the pings that the gateway sends of its own carry fresh masks too.
func TestFRM04MasksOfPings(t *testing.T) {
	t.Parallel()
	var raw tally[rawFrame]
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		for {
			f, err := readRaw(c.br)
			if err != nil {
				return
			}
			raw.add(f)
			if f.Op == frame.Close {
				return
			}
		}
	})
	s, iss := gate(t, up, `
  - {path: /idle, upstream: "ws://UPSTREAM", limits: {idle_timeout: 1s}}
`)
	const many = 200
	token := bearer(iss.token())
	for range many {
		s.connect("/idle", token)
	}
	masks, ops := map[[4]byte]bool{}, map[frame.Opcode]int{}
	eventually(t, "a close frame for each, after pings", func() bool {
		clear(ops)
		for _, f := range raw.list() {
			ops[f.Op]++
		}
		return ops[frame.Close] == many
	})
	for _, f := range raw.list() {
		if masks[f.Mask] = true; !f.Masked || f.Op != frame.Ping && f.Op != frame.Close {
			t.Errorf("%+v", f.Header)
		}
	}
	// Two equal ones among 600 of 2^32: once in 24000 runs.
	if len(masks) != len(raw.list()) || masks[[4]byte{}] || ops[frame.Ping] < many {
		t.Errorf("%d masks on %v", len(masks), ops)
	}
}

// FRM-06: where it is asked for, text is checked over all its fragments; where
// it is not, it passes as it is.
func TestFRM06UTF8(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, frameRoutes)
	token := bearer(iss.token())
	const text = "κόσμε €\U0010FFFF\u0000 é"
	for split := range text {
		c := s.connect("/check", token)
		c.frame(frame.Text, false, text[:split]).frame(frame.Ping, true, "\xff").frame(frame.Continuation, true, text[split:])
		var got strings.Builder
		for got.Len() < len(text) {
			m, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			if m.op != frame.Pong {
				got.WriteString(m.payload)
			}
		}
		if got.String() != text {
			t.Errorf("split at %d: %q", split, got.String())
		}
		c.conn.Close()
	}
	s.connect("/check", token).frame(frame.Binary, true, "\xff\xfe").receives("\xff\xfe")
	refused := map[*client]<-chan ending{}
	for _, bad := range []string{"\xff", "\xc3\x28", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\xe2\x82", "ok\x80"} {
		for split := 0; split <= len(bad); split++ {
			c := s.connect("/check", token)
			c.frame(frame.Text, false, bad[:split]).frame(frame.Continuation, true, bad[split:])
			refused[c] = c.watch()
		}
		s.connect("/pass", token).text(bad).receives(bad).conn.Close()
	}
	for c, ends := range refused {
		(<-ends).want(t, 1007, "invalid_payload")
		up.of(c).closed(1007, "invalid_payload")
	}
}

// FRM-07: a peer's own legal close code and reason are the other's too.
func TestFRM07CloseCodesPass(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		if b, err := hex.DecodeString(c.req.URL.Query().Get("close")); err == nil && len(b) > 0 {
			_, _ = c.Write(frame.Append(nil, frame.Close, b, false))
		}
		c.listen()
	})
	s, iss := gate(t, up, frameRoutes)
	token := bearer(iss.token())
	reasons := []string{"", "bye", "κόσμε", strings.Repeat("x", 123), `{"wsbouncer":"ok"}`}
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3003, 3999, 4000, 4999} {
		reason := reasons[i%len(reasons)]
		for _, path := range []string{"/pass", "/inband"} {
			c := s.connect(path, token)
			c.frame(frame.Close, true, string(bits.BigEndian.AppendUint16(nil, code))+reason)
			if e := <-c.watch(); e.code != code || e.text != reason || e.after != 0 { // the upstream's answer
				t.Errorf("%s: closing with %d %q was answered with %+v", path, code, reason, e)
			}
			up.of(c).closed(code, reason)

			target := path + "?close=" + hex.EncodeToString([]byte(string(bits.BigEndian.AppendUint16(nil, code))+reason))
			c = s.connect(target, token)
			(<-c.watch()).want(t, code, reason)
			// The client's answer; where that took a second, the gateway's own.
			up.of(c).closed(code, "", reason)
		}
	}
	c := s.connect("/pass", token).frame(frame.Close, true, "")
	c.closesWithoutCode()

	// In the middle of a fragmented message a close frame is as good.
	c = s.connect("/inband", token).frame(frame.Text, false, "half").frame(frame.Close, true, "\x0f\xa0enough")
	(<-c.watch()).want(t, 4000, "enough")
	up.of(c).closed(4000, "enough")
	// A client that vanishes: the upstream is told a legal code.
	c = s.connect("/pass", token)
	uc := up.of(c)
	c.conn.Close()
	uc.closed(1001, "client_gone")
	c = s.connect("/pass", token).send(plainly(0x81, "whole") + plainly(0x81, "not all of it")[:10])
	uc = up.of(c)
	eventually(t, "the whole message", func() bool { return len(uc.got()) == 1 })
	c.conn.Close()
	uc.ended()
	if got := uc.got(); len(got) != 1 {
		t.Errorf("inside a frame the upstream received %+v", got[1:])
	}
}

// FRM-08: a length that is announced costs nothing.
func TestFRM08AnnouncedLengthsCostNothing(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, sink)
	s, iss := gate(t, up, `
  - {path: /pass, upstream: "ws://UPSTREAM", limits: {message_bytes: 16MiB}}
  - {path: /inband, upstream: "ws://UPSTREAM", in_band_refresh: true, limits: {message_bytes: 16MiB}}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message]}
`)
	token := bearer(iss.token())
	sixteen := []byte{127, 0, 0, 0, 0, 1, 0, 0, 0}
	open := func(path string, lines ...string) {
		c := s.connect(path, lines...)
		c.send(masked(0x81, sixteen, "{"))
	}
	tooBig := func(c *client, raw string) {
		m, err := c.send(raw).next()
		if err != nil || m.op != frame.Close || m.payload != "\x03\xf1message_too_big" {
			t.Fatalf("%+v %v", m, err)
		}
		c.conn.Close()
	}
	open("/pass", token)
	before := s.resident()
	many := long(100, 500)
	for range many {
		open("/pass", token)
		open("/inband", token)
		for _, length := range [][]byte{{127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {127, 0, 0, 0, 0, 0x80, 0, 0, 0}} {
			tooBig(s.connect("/pass", token), masked(0x82, length, ""))
		}
	}
	for range 16 {
		tooBig(s.connect("/first"), masked(0x81, sixteen, ""))
	}
	grown := s.resident() - before
	t.Logf("%d MiB", grown>>20)
	most := int64(32 << 20)
	if raceEnabled {
		most *= 5
	}
	if grown > most {
		t.Errorf("%d connections that announce 16 MiB each cost %d MiB", 2*many, grown>>20)
	}
}

// digest is what one side sent or received, in its order.
type digest struct{ all, data, control hash.Hash }

func newDigest() *digest { return &digest{sha256.New(), sha256.New(), sha256.New()} }

func (d *digest) add(m message) {
	line := fmt.Sprintf("%d %v %d:", m.op, m.fin, len(m.payload)) + m.payload
	kind := d.data
	if m.op.IsControl() {
		kind = d.control
	}
	_, _ = io.WriteString(d.all, line)
	_, _ = io.WriteString(kind, line)
}

const lastWord = "that was all"

// random writes n random messages in random fragments, with control frames
// anywhere between, in writes that end anywhere; then lastWord.
func random(w io.Writer, seed uint64, n int, mask bool) (*digest, error) {
	rng := rand.New(rand.NewPCG(seed, 0))
	sent := newDigest()
	var out []byte
	var err error
	flush := func() {
		for err == nil && len(out) > 0 && rng.IntN(4) > 0 {
			k := 1 + rng.IntN(len(out))
			_, err = w.Write(out[:k])
			out = out[k:]
		}
	}
	put := func(m message) {
		sent.add(m)
		h := frame.Header{Fin: m.fin, Op: m.op, Masked: mask, Length: int64(len(m.payload))}
		if mask {
			bits.BigEndian.PutUint32(h.Mask[:], rng.Uint32())
		}
		out = frame.AppendHeader(out, h)
		from := len(out)
		out = append(out, m.payload...)
		if mask {
			frame.Mask(out[from:], h.Mask, 0)
		}
		flush()
	}
	alphabet := []string{"a", "{", "\"wsbouncer\"", ":", "é", "€", "\U0001F600", " ", "}", "\\u0077"}
	payload := func(size int) string {
		var b strings.Builder
		for b.Len() < size {
			b.WriteString(alphabet[rng.IntN(len(alphabet))])
		}
		return b.String()
	}
	for i := range n {
		size := rng.IntN(200)
		if rng.IntN(100) == 0 {
			size = rng.IntN(60 << 10)
		}
		// A number first, so that no message is the gateway's.
		text, op := strconv.Itoa(i)+payload(size), frame.Text
		if rng.IntN(2) == 0 {
			op = frame.Binary
		}
		for parts := rng.IntN(4); ; parts-- {
			if rng.IntN(10) == 0 {
				put(message{frame.Ping + frame.Opcode(rng.IntN(2)), true, payload(rng.IntN(100))})
			}
			if parts == 0 {
				put(message{op, true, text})
				break
			}
			cut := rng.IntN(len(text) + 1)
			put(message{op, false, text[:cut]})
			text, op = text[cut:], frame.Continuation
		}
		if err != nil {
			return sent, err
		}
	}
	out = append(out, frame.Append(nil, frame.Text, []byte(lastWord), mask)...)
	_, err = w.Write(out)
	return sent, err
}

// received digests frames up to lastWord.
func received(next func() (message, error)) (*digest, error) {
	d := newDigest()
	for {
		m, err := next()
		if err != nil || m.payload == lastWord {
			return d, err
		}
		d.add(m)
	}
}

func (d *digest) same(t testing.TB, what string, got *digest, ordered bool) {
	t.Helper()
	pairs := [][2]hash.Hash{{d.data, got.data}, {d.control, got.control}}
	if ordered {
		pairs = append(pairs, [2]hash.Hash{d.all, got.all})
	}
	for _, p := range pairs {
		if !bytes.Equal(p[0].Sum(nil), p[1].Sum(nil)) {
			t.Errorf("%s: what came is not what was sent", what)
			return
		}
	}
}

// FRM-09: whatever is sent arrives, as it was and in its order. Only where
// messages are looked at may a control frame come sooner than a fragment.
func TestFRM09RandomMessagesBothWays(t *testing.T) {
	t.Parallel()
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		counts := map[string]int{"/pass": long(20_000, 100_000), "/check": long(5000, 100_000), "/inband": long(5000, 100_000)}
		up, results := randomUpstream(t, nil, counts)
		s, iss := gate(t, up, frameRoutes)
		bothWays(t, iss, up, results, counts, s.connect)
	})
	// TLS on both sides is another reader and writer than plain sockets.
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		counts := map[string]int{"/pass": long(5000, 100_000), "/check": long(1000, 100_000), "/inband": long(1000, 100_000)}
		certificate, key := unvouched(t)
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		up, results := randomUpstream(t, &tls.Config{Certificates: []tls.Certificate{pair}}, counts)
		iss := newIssuer(t, "https://idp.example")
		routes := strings.ReplaceAll(strings.ReplaceAll(frameRoutes, "ws://", "wss://"), ", limits:", fmt.Sprintf(", upstream_tls: {ca: %s}, limits:", certificate))
		s := start(t, up, trustYAML(iss.name)+"public_url: https://ADDR\ntls: {cert: cert.pem, key: key.pem}\nroutes:\n"+routes+generous(), iss.trusted, selfSigned)
		bothWays(t, iss, up, results, counts, func(path string, lines ...string) *client {
			conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
			if a := c.send(s.upgrade(path, lines...)).response(); a.status != 101 {
				t.Fatalf("%s: %d %s", path, a.status, a.body)
			}
			return c
		})
	})
}

// exchanged is what an upstream sent and received.
type exchanged struct {
	sent, got *digest
	err       error
}

// randomUpstream sends random messages, as many as counts says by path, and
// digests those that come.
func randomUpstream(t *testing.T, conf *tls.Config, counts map[string]int) (*upstream, <-chan exchanged) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	results := make(chan exchanged, 1)
	return newUpstreamOn(t, l, func(c *upConn) {
		c.accept()
		var r exchanged
		var writing sync.WaitGroup
		writing.Go(func() {
			var err error
			if r.sent, err = random(c, 7, counts[c.req.URL.Path], false); err != nil {
				c.up.t.Errorf("the upstream's stream: %v", err)
			}
		})
		r.got, r.err = received(func() (message, error) { return readFrame(c.br) })
		writing.Wait()
		results <- r
		c.listen()
	}), results
}

// bothWays sends random messages over each path while the upstream does, and
// compares what came.
func bothWays(t *testing.T, iss *issuer, up *upstream, results <-chan exchanged, counts map[string]int, connect func(string, ...string) *client) {
	t.Helper()
	for path, n := range counts {
		c := connect(path, bearer(iss.token()))
		_ = c.conn.SetDeadline(time.Now().Add(patience + time.Duration(n)*time.Millisecond))
		var sent *digest
		var writing sync.WaitGroup
		writing.Go(func() {
			var err error
			if sent, err = random(c.conn, 11, n, true); err != nil {
				t.Errorf("the client's stream: %v", err)
			}
		})
		got, err := received(func() (message, error) { return readFrame(c.br) })
		writing.Wait()
		other := <-results
		if err != nil || other.err != nil {
			t.Fatalf("%s: %v, %v", path, err, other.err)
		}
		sent.same(t, path+" from the client", other.got, path != "/inband")
		other.sent.same(t, path+" from the upstream", got, path != "/inband")
		c.frame(frame.Close, true, "\x03\xe8").closes(1000, "")
	}
}

// A ping is answered while a big message is on its way.
func TestFRM09PingInsideABigMessage(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, frameRoutes)
	for _, path := range []string{"/pass", "/check", "/inband"} {
		c := s.connect(path, bearer(iss.token()))
		c.frame(frame.Text, false, "{"+strings.Repeat("x", 30<<10))
		for range 5 {
			began := time.Now()
			c.frame(frame.Ping, true, "now")
			for {
				m, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				if m.op == frame.Pong && m.payload == "now" {
					break
				}
			}
			if d := time.Since(began); d > 100*time.Millisecond+loaded {
				t.Errorf("%s: answered after %v", path, d)
			}
			c.frame(frame.Continuation, false, "more")
		}
	}
}

// The one close frame stands between two frames or nowhere: a revocation in the
// middle of large frames leaves a stream that is legal as far as it goes.
func TestSES10CloseOnlyBetweenFrames(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("\x88\x02", 50<<10) // close frames, if it were read as such
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.listen()
		}()
		n, _ := strconv.Atoi(c.req.URL.Query().Get("size"))
		whole := frame.Append(nil, frame.Binary, []byte(body[:n]), false)
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := c.Write(whole); err != nil {
				<-done
				return
			}
		}
	})
	s, iss := gate(t, up, `
  - {path: /big, upstream: "ws://UPSTREAM"}
`)
	outcomes := map[string]int{}
	for i := range 15 {
		sid := fmt.Sprintf("s%d", i)
		size := []int{len(body), 20_000, 200}[i%3]
		c := s.connect(fmt.Sprintf("/big?size=%d", size), bearer(iss.token(claims{"sid": sid})))
		frames := make(chan struct{}, 1<<16)
		end := make(chan string, 1)
		go func() {
			_ = c.conn.SetReadDeadline(time.Now().Add(patience))
			for {
				m, err := readFrame(c.br)
				switch {
				case err != nil:
					end <- "cut"
					return
				case m.op == frame.Close:
					code, text, err := frame.ParseClose([]byte(m.payload))
					rest, _ := io.ReadAll(c.br)
					if err != nil || code != 3000 || text != "session_revoked" || len(rest) > 0 {
						end <- fmt.Sprintf("closed with %d %q (%v) and %d bytes more", code, text, err, len(rest))
						return
					}
					end <- "closed"
					return
				case m.payload != body[:size]:
					end <- "a frame was altered"
					return
				}
				select {
				case frames <- struct{}{}:
				default:
				}
			}
		}()
		for range 3 + i%5 {
			<-frames
		}
		s.revoke(iss, "session", sid)
		outcome := <-end
		outcomes[outcome]++
		if outcome != "cut" && outcome != "closed" {
			t.Fatal(outcome)
		}
		c.conn.Close()
	}
	t.Log(outcomes)
}

// Compression is the two sides' affair where the route passes it, and nobody's
// elsewhere.
func TestFRM05CompressionBit(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, func(c *upConn) {
		offered := c.req.Header.Get("Sec-WebSocket-Extensions")
		if strings.Contains(offered, "permessage-deflate") && c.req.URL.Path == "/pass" {
			c.accept("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
		} else {
			c.accept()
		}
		_, _ = c.Write([]byte("\x81\x02hi"))
		for {
			f, err := readRaw(c.br)
			if err != nil || f.Op == frame.Close {
				return
			}
			f.Masked = false
			frame.Mask(f.payload, f.Mask, 0)
			_, _ = c.Write(append(frame.AppendHeader(nil, f.Header), f.payload...))
		}
	})
	s, iss := gate(t, up, `
  - {path: /pass, upstream: "ws://UPSTREAM", compression: pass}
  - {path: /declined, upstream: "ws://UPSTREAM", compression: pass}
  - {path: /off, upstream: "ws://UPSTREAM"}
`)
	token := bearer(iss.token())
	const offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
	var refused []<-chan ending
	breaks := func(c *client, raw string) {
		ends := c.watch()
		c.send(raw)
		refused = append(refused, ends)
	}
	c, a := s.handshake("/pass", token, offer)
	if got := a.header.Get("Sec-WebSocket-Extensions"); got != "permessage-deflate; server_no_context_takeover" {
		t.Errorf("the client was told %q", got)
	}
	c.receives("hi").send(plainly(0xc1, "\xf2\x48\x05\x00"))
	f, err := readRaw(c.br)
	if err != nil || f.RSV != 0x40 || string(f.payload) != "\xf2\x48\x05\x00" {
		t.Errorf("%+v %v", f, err)
	}
	breaks(c, plainly(0xa1, "x"))
	c, _ = s.handshake("/pass", token, offer)
	breaks(c, plainly(0x41, "x")+plainly(0xc0, "y"))

	for path, want := range map[string]string{"/declined": "permessage-deflate; client_max_window_bits", "/off": ""} {
		c, a := s.handshake(path, token, offer)
		if a.header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("%s: %v", path, a.header)
		}
		if got := up.of(c).req.Header.Get("Sec-WebSocket-Extensions"); got != want {
			t.Errorf("%s: the upstream was offered %q", path, got)
		}
		breaks(c, plainly(0xc1, "x"))
	}
	for _, ends := range refused {
		(<-ends).want(t, 1002, "protocol_error")
	}
}
