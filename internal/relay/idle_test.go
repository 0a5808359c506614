package relay_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

func running(t *testing.T) *wheel.Wheel {
	w := wheel.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// A side that takes a long frame cannot be pinged meanwhile: it is not taken for
// dead while the frame's bytes come.
func TestDOS04SlowFrameIsNotSilence(t *testing.T) {
	const idle = 900 * time.Millisecond
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		for name, toClient := range map[string]bool{"to the upstream": false, "to the client": true} {
			t.Run(name, func(t *testing.T) {
				w := running(t)
				r := newRig(t, kind, func(c *relay.Config) { c.Wheel, c.Limits.IdleTimeout = w, idle })
				text := strings.Repeat("x", 30)
				b, from, to := up(frame.Text, text), r.client, r.upstream
				if toClient {
					b, from, to = down(frame.Text, text), to, from
				}
				drip := time.NewTicker(2 * idle / 30)
				defer drip.Stop()
				for _, c := range b {
					send(t, from, []byte{c})
					<-drip.C
				}
				h, payload := readFrame(t, to)
				for h.Op == frame.Ping { // it was silent before the frame began
					h, payload = readFrame(t, to)
				}
				if payload != text {
					t.Fatalf("got %+v %q", h, payload)
				}
			})
		}
	})
}

func TestDOS04SilenceEnds(t *testing.T) {
	everyKindAtOnce(t, func(t *testing.T, kind string) {
		w := running(t)
		r := newRig(t, kind, func(c *relay.Config) { c.Wheel, c.Limits.IdleTimeout = w, 300*time.Millisecond })
		// Nobody says anything, nor goes on with its frame.
		send(t, r.client, up(frame.Text, "half a frame")[:9])
		if e := r.wait(); e.end != reason.Idle && e.end != reason.UpstreamGone {
			t.Errorf("ended %+v", e.end)
		}
	})
}

// What comes behind a peer's close frame is dropped (RFC 6455 §5.5.1), and does
// not make the socket reset over the answer.
func TestFRM01WhatFollowsACloseFrameResetsNothing(t *testing.T) {
	everyKind(t, func(t *testing.T, kind string) {
		if strings.HasPrefix(kind, "pipe") {
			return // a pipe does not keep what nobody reads
		}
		r := newRig(t, kind, nil)
		bye := closePayload(1000, "bye")
		send(t, r.client, up(frame.Close, bye))
		expect(t, r.upstream, up(frame.Close, bye)[:2])
		send(t, r.client, up(frame.Ping, "late"), up(frame.Text, "too late"))
		_, _ = r.upstream.Read(make([]byte, 64)) // the rest of it
		send(t, r.upstream, down(frame.Close, bye))
		if h, payload := readFrame(t, r.client); h.Op != frame.Close || payload != bye {
			t.Fatalf("%+v %q", h, payload)
		}
		_ = r.client.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := r.client.Read(make([]byte, 1))
		if reset := new(net.OpError); n > 0 || errors.As(err, &reset) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}
