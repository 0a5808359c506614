package relay_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

func TestSES10EndAtABoundaryTellsBothAtOnce(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		for _, e := range []reason.End{reason.TokenExpired, reason.LoggedOut, reason.Restarting} {
			r := newRig(t, kind, nil)
			send(t, r.client, up(frame.Text, "hello"))
			readFrame(t, r.upstream)
			r.conn.End(e)
			r.conn.End(reason.Overloaded) // only the first counts
			send(t, r.client, up(frame.Text, "too late"))
			send(t, r.upstream, down(frame.Text, "too late"))
			expectClose(t, r.client, e.Code, e.Text, up(frame.Close, closePayload(e.Code, "")))
			expectClose(t, r.upstream, e.Code, e.Text, down(frame.Close, closePayload(e.Code, "")))
			if got := r.wait(); got.end != e || got.stats.By != relay.Gateway {
				t.Errorf("ended %+v by %v", got.end, got.stats.By)
			}
		}
	})
}

// What ended before the relay began sends its close frames and nothing else,
// whatever was read before.
func TestSES10EndBeforeTheBeginning(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		for _, e := range []reason.End{reason.TokenExpired, reason.LoggedOut} {
			r := newRig(t, kind, func(cfg *relay.Config) {
				cfg.Ended = e
				cfg.FromClient, cfg.FromUpstream = up(frame.Text, "early"), down(frame.Text, "early")
			})
			expectClose(t, r.client, e.Code, e.Text, up(frame.Close, closePayload(e.Code, "")))
			expectClose(t, r.upstream, e.Code, e.Text, down(frame.Close, closePayload(e.Code, "")))
			if got := r.wait(); got.end != e || got.stats.By != relay.Gateway {
				t.Errorf("ended %+v by %v", got.end, got.stats.By)
			}
		}
	})
}

func TestSES10RevocationCutsInsideAFrame(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		half := up(frame.Text, "half of a frame")[:12]
		send(t, r.client, half)
		expect(t, r.upstream, half)
		began := time.Now()
		r.conn.End(reason.SubjectRevoked)
		expectEnd(t, r.upstream)
		if d := time.Since(began); d > 500*time.Millisecond {
			t.Errorf("cut after %v", d)
		}
		// The other direction is between frames.
		expectClose(t, r.client, 3000, "subject_revoked", hangUp)
	})
}

func TestSES10ExpiryLetsAFrameFinish(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		b := down(frame.Text, "all of a frame")
		send(t, r.upstream, b[:9])
		expect(t, r.client, b[:9])
		r.conn.End(reason.TokenExpired)
		expectClose(t, r.upstream, 3000, "token_expired", append(append(b[9:], down(frame.Text, "not this")...), down(frame.Close, "")...))
		expect(t, r.client, b[9:])
		expectClose(t, r.client, 3000, "token_expired", up(frame.Close, ""))
	})
}

func TestSES10RevocationAfterExpiryStillCuts(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		b := down(frame.Text, "all of a frame")
		send(t, r.upstream, b[:9])
		expect(t, r.client, b[:9])
		began := time.Now()
		r.conn.End(reason.TokenExpired)
		r.conn.End(reason.LoggedOut)
		expectEnd(t, r.client)
		if d := time.Since(began); d > 500*time.Millisecond {
			t.Errorf("cut after %v", d)
		}
		expectClose(t, r.upstream, 3000, "token_expired", hangUp)
	})
}

func TestSES10FrameThatDoesNotFinishIsCut(t *testing.T) {
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		b := down(frame.Text, "all of a frame")
		send(t, r.upstream, b[:9])
		expect(t, r.client, b[:9])
		began := time.Now()
		r.conn.End(reason.Restarting)
		expectClose(t, r.upstream, 1012, "restarting", nothing)
		expectEnd(t, r.client)
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("cut after %v", d)
		}
	})
}

// flood writes frames until it is stopped.
func flood(c net.Conn, b []byte) {
	for {
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// A writer that waits for a peer that does not read must neither delay the end
// nor send on.
// stick makes the pump toward the client wait: the upstream floods, and nobody
// reads until no byte moves any more.
func stick(r *rig, wg *sync.WaitGroup) {
	wg.Go(func() { flood(r.upstream, down(frame.Binary, strings.Repeat("x", 1<<20))) })
	if rd, ok := r.client.(*reader); ok {
		rd.pause()
	}
	for before := int64(-1); ; {
		now := r.conn.Stats().UpstreamBytes
		if now == before && now > 0 {
			return
		}
		before = now
		time.Sleep(100 * time.Millisecond) // the absence of progress has no event
	}
}

// A peer that does not read may say goodbye all the same.
func TestSES10PeerThatDoesNotReadCloses(t *testing.T) {
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		var wg sync.WaitGroup
		stick(r, &wg)
		began := time.Now()
		send(t, r.client, up(frame.Close, closePayload(1000, "enough")))
		h, payload := readFrame(t, r.upstream)
		if code, text, err := frame.ParseClose([]byte(payload)); h.Op != frame.Close || code != 1000 || text != "enough" || err != nil {
			t.Errorf("the upstream got %v %q", h.Op, payload)
		}
		if got := r.wait(); got.end != (reason.End{Code: 1000, Text: "enough"}) || got.stats.By != relay.Client {
			t.Errorf("ended %+v by %v", got.end, got.stats.By)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("ended after %v", d)
		}
		wg.Wait()
	})
}

// A peer that has said goodbye still answers pings until it has heard the same:
// the other's last words, which may be long, arrive all the same (§5.5.2, §7.1.1).
func TestSES10LastWordsArrive(t *testing.T) {
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		for _, byClient := range []bool{true, false} {
			r := newRig(t, kind, nil)
			leaver, speaker, says, answers := r.client, r.upstream, up, down
			if !byClient {
				leaver, speaker, says, answers = r.upstream, r.client, down, up
			}
			send(t, leaver, says(frame.Close, closePayload(1000, "bye")))
			if h, _ := readFrame(t, speaker); h.Op != frame.Close {
				t.Fatalf("got opcode %d instead of the close frame", h.Op)
			}
			words := strings.Repeat("last words ", 30_000) // more than the leaver's socket takes
			send(t, speaker, answers(frame.Ping, "?"), answers(frame.Text, words), answers(frame.Close, closePayload(1000, "bye")))
			expectEnd(t, speaker)
			select { // the gateway is rid of both, if it is wrong
			case e := <-r.ends:
				r.ends <- e
			case <-time.After(50 * time.Millisecond):
			}
			_ = leaver.SetWriteDeadline(time.Now().Add(10 * time.Second))
			_, _ = leaver.Write(says(frame.Pong, "?")) // a pipe may be gone already
			if h, _ := readFrame(t, leaver); h.Op != frame.Ping {
				t.Fatalf("got opcode %d instead of the ping", h.Op)
			}
			if _, got := readFrame(t, leaver); got != words {
				t.Fatalf("got %d bytes of %d", len(got), len(words))
			}
			if h, _ := readFrame(t, leaver); h.Op != frame.Close {
				t.Fatalf("got opcode %d instead of the close frame", h.Op)
			}
			expectEnd(t, leaver)
			if got := r.wait(); got.end != (reason.End{Code: 1000, Text: "bye"}) {
				t.Errorf("ended %+v", got.end)
			}
		}
	})
}

func TestSES10EndInterruptsABlockedWriter(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		for _, e := range []reason.End{reason.SessionRevoked, reason.TokenExpired} {
			r := newRig(t, kind, nil)
			var wg sync.WaitGroup
			stick(r, &wg)
			began := time.Now()
			r.conn.End(e)
			if d := time.Since(began); d > 100*time.Millisecond {
				t.Errorf("End took %v", d)
			}
			ended := r.wait()
			if d := time.Since(began); d > 3*time.Second {
				t.Errorf("ended after %v", d)
			}
			if ended.end != e {
				t.Errorf("ended %+v", ended.end)
			}
			wg.Wait()
		}
	})
}

// numbered floods messages with their number until the connection ends, and
// says which was the last whose sending began.
func numbered(c net.Conn, masked bool) (last uint64) {
	for {
		last++
		b := frame.Append(nil, frame.Binary, binary.BigEndian.AppendUint64(nil, last), masked)
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(b); err != nil {
			return last
		}
	}
}

func TestSES10NothingAfterTheEnd(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		var wg sync.WaitGroup
		wg.Go(func() { numbered(r.client, true) })
		wg.Go(func() { numbered(r.upstream, false) })
		for _, c := range []net.Conn{r.client, r.upstream} {
			wg.Go(func() {
				want := uint64(1)
				for {
					_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
					h, b, err := nextFrame(c)
					if err != nil {
						if errors.Is(err, os.ErrDeadlineExceeded) {
							t.Error("the socket stayed open")
						}
						return
					}
					if h.Op == frame.Close {
						expectEnd(t, c)
						return
					}
					if got := binary.BigEndian.Uint64(frame.AppendPayload(nil, b)); got != want {
						t.Errorf("message %d instead of %d", got, want)
						return
					}
					want++
				}
			})
		}
		for r.conn.Stats().ClientMessages < 100 || r.conn.Stats().UpstreamMessages < 100 {
			time.Sleep(time.Millisecond)
		}
		r.conn.End(reason.TokenRevoked)
		r.wait()
		_ = r.client.Close()
		_ = r.upstream.Close()
		wg.Wait()
	})
}

// traffic makes a random legal direction of about size bytes.
func traffic(r *rand.Rand, size int, masked bool) []byte {
	var b []byte
	open := false
	for len(b) < size {
		n := r.IntN(200)
		switch r.IntN(12) {
		case 0:
			n = r.IntN(70000)
		case 1:
			b = append(b, frame.Append(nil, frame.Ping+frame.Opcode(r.IntN(2)), make([]byte, r.IntN(126)), masked)...)
		}
		op := frame.Continuation
		if !open {
			op = frame.Text + frame.Opcode(r.IntN(2))
		}
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		fin := r.IntN(3) > 0
		b = append(b, part(op, fin, masked, string(payload))...)
		open = !fin
	}
	if open {
		b = append(b, part(frame.Continuation, true, masked, "")...)
	}
	return b
}

// scatter writes b in random pieces.
func scatter(r *rand.Rand, c net.Conn, b []byte) error {
	for len(b) > 0 {
		n := 1 + r.IntN(min(len(b), []int{3, 200, 5000, 100000}[r.IntN(4)]))
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func TestFRM09RandomTrafficHashEqual(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		r := newRig(t, kind, nil)
		var wg sync.WaitGroup
		for i, d := range []struct {
			from, to net.Conn
			masked   bool
		}{{r.client, r.upstream, true}, {r.upstream, r.client, false}} {
			rnd := rand.New(rand.NewPCG(uint64(i), 7))
			b := traffic(rnd, 3<<20, d.masked)
			wg.Go(func() {
				if err := scatter(rnd, d.from, b); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				h := sha256.New()
				_ = d.to.SetReadDeadline(time.Now().Add(30 * time.Second))
				if n, err := io.CopyN(h, d.to, int64(len(b))); err != nil {
					t.Errorf("%d of %d bytes: %v", n, len(b), err)
				}
				if want := sha256.Sum256(b); !bytes.Equal(h.Sum(nil), want[:]) {
					t.Error("the bytes changed")
				}
			})
		}
		wg.Wait()
	})
}

// What a peer got when the connection was ended at any moment: a prefix of what
// was sent, up to a boundary and then exactly one close frame with nothing
// behind it, or cut anywhere.
func TestSES10EndAtARandomMoment(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	var closes atomic.Int64
	t.Cleanup(func() {
		if closes.Load() == 0 {
			t.Error("no connection at all ended with a close frame")
		}
	})
	everyKind(t, func(t *testing.T, kind string) {
		seed := rand.New(rand.NewPCG(11, uint64(len(kind))))
		sent := [2][]byte{traffic(seed, 1<<20, true), traffic(seed, 1<<20, false)}
		for round := range rounds {
			e := []reason.End{reason.SessionRevoked, reason.TokenExpired, reason.Idle}[seed.IntN(3)]
			at := int64(seed.IntN(1 << 19))
			seeds := [2]uint64{seed.Uint64(), seed.Uint64()}
			t.Run(strconv.Itoa(round), func(t *testing.T) {
				t.Parallel()
				endAt(t, kind, sent, seeds, e, at, &closes)
			})
		}
	})
}

func endAt(t *testing.T, kind string, sent [2][]byte, seeds [2]uint64, e reason.End, at int64, closes *atomic.Int64) {
	r := newRig(t, kind, nil)
	var wg sync.WaitGroup
	for i, d := range []struct{ from, to net.Conn }{{r.client, r.upstream}, {r.upstream, r.client}} {
		wg.Go(func() { _ = scatter(rand.New(rand.NewPCG(seeds[i], 1)), d.from, sent[i]) })
		wg.Go(func() {
			_ = d.to.SetReadDeadline(time.Now().Add(20 * time.Second))
			got, err := io.ReadAll(d.to)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the socket stayed open")
			}
			if checkPrefix(t, sent[i], got, e, i == 1) {
				closes.Add(1)
			}
		})
	}
	for r.conn.Stats().ClientBytes < at {
		time.Sleep(50 * time.Microsecond)
	}
	r.conn.End(e)
	r.wait()
	_ = r.client.Close()
	_ = r.upstream.Close()
	wg.Wait()
}

// checkPrefix reports whether got ends in a close frame.
func checkPrefix(t *testing.T, sent, got []byte, e reason.End, toClient bool) (closed bool) {
	t.Helper()
	boundary := 0
	for rest := got; len(rest) > 0; {
		h, n, err := frame.ParseHeader(rest)
		if err != nil || n == 0 || h.Length > int64(len(rest)-n) {
			break
		}
		whole := rest[:n+int(h.Length)]
		if h.Op == frame.Close {
			if !bytes.Equal(got[:boundary], sent[:boundary]) {
				t.Error("what came before the close frame is not what was sent")
			}
			code, text, err := frame.ParseClose(frame.AppendPayload(nil, whole))
			if code != e.Code || text != e.Text || err != nil || h.Masked == toClient {
				t.Errorf("close frame %d %q %v, masked %v", code, text, err, h.Masked)
			}
			if len(whole) != len(rest) {
				t.Errorf("%d bytes behind the close frame", len(rest)-len(whole))
			}
			return true
		}
		rest = rest[len(whole):]
		boundary += len(whole)
	}
	if !bytes.HasPrefix(sent, got) {
		t.Errorf("%d bytes that are no prefix of what was sent", len(got))
	}
	return false
}

func TestHS11BothEndsEndTogether(t *testing.T) {
	for _, kind := range kinds {
		var wg sync.WaitGroup
		for i := range 40 {
			r := newRig(t, kind, nil)
			lost, kept := r.client, r.upstream
			if i%2 == 1 {
				lost, kept = kept, lost
			}
			wg.Go(func() {
				if tcp, ok := lost.(*net.TCPConn); ok && i%4 < 2 {
					_ = tcp.SetLinger(0) // a reset, as of a killed process
				}
				_ = lost.Close()
				// The other end is kept open and silent: it is cut all the same.
				_ = kept.SetReadDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.Copy(io.Discard, kept); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the socket stayed open")
				}
				r.wait()
			})
		}
		wg.Wait()
	}
}
