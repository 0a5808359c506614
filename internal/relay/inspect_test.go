package relay_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// inspector decides by what a message says: "drop", "part", "reply", "end",
// anything else goes on.
func inspector(c *relay.Config) {
	c.Inspect = func(_ *relay.Conn, _ relay.Party, binary bool, message []byte) relay.Verdict {
		word, _, _ := strings.Cut(string(message), " ")
		switch word {
		case "drop":
			return relay.Verdict{}
		case "part":
			return relay.Verdict{Part: message[5:]}
		case "reply":
			return relay.Verdict{Reply: []byte("no"), BinaryReply: binary}
		case "end":
			return relay.Verdict{Whole: true, Part: message, Reply: []byte("never"), End: reason.NotAllowed}
		}
		return relay.Verdict{Whole: true}
	}
}

func inspectedKinds(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range []string{"tcp-tcp", "socket-socket", "tls-tcp", "pipe-pipe"} {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

func TestAZ01WhatIsHeldBackNeverGoesOn(t *testing.T) {
	inspectedKinds(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, inspector)
		for _, d := range []struct {
			from, to net.Conn
			masked   bool
		}{{r.client, r.upstream, true}, {r.upstream, r.client, false}} {
			from, to := d.from, d.to
			one := func(op frame.Opcode, text string) []byte { return part(op, true, d.masked, text) }
			first, last := one(frame.Text, "first"), one(frame.Text, "last")
			var pings [3][]byte
			for i, name := range []string{"p", "q", "r"} {
				pings[i] = one(frame.Ping, name)
			}
			goes := [2][]byte{part(frame.Text, false, d.masked, "go"), part(0, true, d.masked, "es")}
			// In one write, with what goes on before, between and after.
			send(t, from, bytes.Join([][]byte{
				first, one(frame.Text, "drop this"), pings[0], one(frame.Binary, "drop"),
				part(frame.Text, false, d.masked, "dr"), pings[1], part(0, false, d.masked, ""), part(0, true, d.masked, "op it"),
				goes[0], pings[2], goes[1], last,
			}, nil))
			expect(t, to, bytes.Join([][]byte{first, pings[0], pings[1], pings[2], goes[0], goes[1], last}, nil))

			send(t, from, one(frame.Binary, "part of it"))
			if h, text := readFrame(t, to); h.Op != frame.Binary || !h.Fin || text != "of it" || h.Masked != d.masked {
				t.Errorf("%+v %q instead of a part", h, text)
			}
			for _, op := range []frame.Opcode{frame.Text, frame.Binary} {
				send(t, from, one(op, "reply to me"))
				if h, text := readFrame(t, from); h.Op != op || text != "no" || h.Masked == d.masked {
					t.Errorf("%+v %q instead of a reply", h, text)
				}
			}
		}
		// A message at a time, byte for byte.
		on := up(frame.Text, "goes on")
		for _, b := range bytes.Join([][]byte{part(frame.Text, false, true, "dro"), part(0, true, true, "p it"), on}, nil) {
			send(t, r.client, []byte{b})
		}
		expect(t, r.upstream, on)

		before := up(frame.Text, "before")
		send(t, r.client, before, up(frame.Text, "end it"), up(frame.Text, "after"))
		expect(t, r.upstream, before)
		expectClose(t, r.upstream, 3003, "not_allowed", hangUp)
		expectClose(t, r.client, 3003, "not_allowed", hangUp)
		if e := r.wait(); e.end != reason.NotAllowed {
			t.Errorf("ended %+v", e.end)
		}
	})
}

// What a client is told while it does not read is bounded.
func TestAZ01DenialsThatNobodyReads(t *testing.T) {
	r := newRig(t, "tcp-tcp", inspector)
	var wg sync.WaitGroup
	wg.Go(func() { flood(r.upstream, down(frame.Binary, strings.Repeat("x", 1<<16))) })
	wg.Go(func() {
		for {
			_ = r.client.SetWriteDeadline(time.Now().Add(20 * time.Second))
			if _, err := r.client.Write(up(frame.Text, "reply")); err != nil {
				return
			}
		}
	})
	if e := r.wait(); e.end != reason.Overloaded {
		t.Errorf("ended %+v", e.end)
	}
	r.client.Close()
	r.upstream.Close()
	wg.Wait()
}

func TestAZ03WhatGoesOnIsWhatCame(t *testing.T) {
	inspectedKinds(t, func(t *testing.T, kind string) {
		seed := [2]uint64{rand.Uint64(), rand.Uint64()}
		t.Logf("seeds %d", seed)
		whole := func(c *relay.Config) {
			c.Inspect = func(*relay.Conn, relay.Party, bool, []byte) relay.Verdict { return relay.Verdict{Whole: true} }
		}
		r := newRig(t, kind, whole)
		var wg sync.WaitGroup
		for i, c := range []struct {
			from, to net.Conn
			masked   bool
		}{{r.client, r.upstream, true}, {r.upstream, r.client, false}} {
			rnd := rand.New(rand.NewPCG(seed[i], 1))
			sent := messages(rnd, 1<<18, c.masked)
			_ = c.to.SetReadDeadline(time.Now().Add(30 * time.Second))
			wg.Go(func() {
				for rest := sent; len(rest) > 0; {
					n := min(len(rest), 1+rnd.IntN(5000))
					if _, err := c.from.Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
			})
			wg.Go(func() {
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(c.to, got); err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
					t.Errorf("direction %d: %v, and what came is not what was sent", i, err)
				}
			})
		}
		wg.Wait()
		r.conn.End(reason.Restarting)
	})
}

// messages makes whole messages of about size bytes, in any number of frames.
func messages(r *rand.Rand, size int, masked bool) (out []byte) {
	for len(out) < size {
		op := frame.Text + frame.Opcode(r.IntN(2))
		for more := r.IntN(5); more >= 0; more-- {
			out = append(out, part(op, more == 0, masked, strings.Repeat("x", r.IntN(1+1<<r.IntN(14))))...)
			op = frame.Continuation
		}
	}
	return out
}
