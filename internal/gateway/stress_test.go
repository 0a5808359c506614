package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
)

// Everything at once, on purpose without any order: handshakes that are given
// up anywhere, traffic, refreshes, expiry and revocations. Afterwards nobody is
// registered and nothing runs.
func TestEverythingAtOnce(t *testing.T) {
	echo := func(c net.Conn, req *http.Request) {
		_, _ = c.Write(accepting(req))
		_, _ = io.Copy(c, unmasked{bufio.NewReader(c)})
	}
	var mu sync.Mutex
	r := newRig(t, gateway.Route{InBandRefresh: true, Demand: wsbouncer.Demand{TokenFrom: []string{"header", "first_message"}}},
		wsbouncer.Limits{ConnectionsPerSubject: 3, HandshakeTimeout: 2 * time.Second, IdleTimeout: time.Second, UnauthenticatedPerIP: -1}, echo, nil)
	token := func(subject int, life time.Duration) string {
		mu.Lock()
		defer mu.Unlock()
		name := fmt.Sprint("subject-", subject)
		return r.issuer.With(map[string]any{"sub": name, "sid": "session-of-" + name, "exp": time.Now().Add(life).Unix() + 1})
	}
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Second)
	defer stop()
	var running sync.WaitGroup
	for i := range 24 {
		running.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for ctx.Err() == nil {
				visit(r, rnd, token)
			}
		})
	}
	running.Go(func() {
		rnd := rand.New(rand.NewPCG(2, 0))
		for ctx.Err() == nil {
			if _, err := r.bouncer.Revoke(ctx, wsbouncer.Session(fmt.Sprint("session-of-subject-", rnd.IntN(40)))); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			r.bouncer.Review()
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(rnd.IntN(40)) * time.Millisecond):
			}
		}
	})
	running.Wait()
	shutdown, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.bouncer.Shutdown(shutdown, 0); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	for l := range r.bouncer.Live() {
		t.Errorf("%s is still registered", l.ID())
	}
}

// visit is one client's stay, given up at a random moment. Whatever happens to
// it is as well.
func visit(r *rig, rnd *rand.Rand, token func(int, time.Duration) string) {
	conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	subject := rnd.IntN(400)
	life := time.Duration(rnd.IntN(3)) * time.Second
	authorization, first := "", rnd.IntN(3) == 0
	if !first {
		authorization = bearer(token(subject, life)) + "\r\n"
	}
	head := "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + authorization + "\r\n"
	if rnd.IntN(10) == 0 {
		head = head[:rnd.IntN(len(head))]
	}
	if _, err := io.WriteString(conn, head); err != nil || rnd.IntN(10) == 0 {
		return
	}
	br := bufio.NewReader(conn)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return
	}
	if first {
		say(conn, `{"wsbouncer":"auth","token":"`+token(subject, life)+`"}`)
	}
	go func() { _, _ = io.Copy(io.Discard, br) }() // ends with conn
	for range rnd.IntN(40) {
		switch rnd.IntN(12) {
		case 0:
			say(conn, `{"wsbouncer":"refresh","token":"`+token(subject+rnd.IntN(2), 3*time.Second)+`"}`)
		case 1:
			_, _ = conn.Write(frame.AppendClose(nil, 1000, "", true))
		case 2:
			b := frame.Append(nil, frame.Binary, make([]byte, 70_000), true)
			_, _ = conn.Write(b[:rnd.IntN(len(b))])
			return
		case 3:
			_, _ = conn.Write(frame.AppendPing(nil, []byte("?"), true))
		default:
			say(conn, `{"type":"message"}`)
		}
	}
}

func say(c net.Conn, text string) { _, _ = c.Write(frame.Append(nil, frame.Text, []byte(text), true)) }

// unmasked reads a client's frames and gives them back as a server sends them.
type unmasked struct{ br *bufio.Reader }

func (u unmasked) Read(p []byte) (int, error) {
	head, err := u.br.Peek(2)
	if err != nil {
		return 0, err
	}
	n := 6
	switch head[1] & 0x7f {
	case 126:
		n = 8
	case 127:
		n = 14
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(u.br, b); err != nil {
		return 0, err
	}
	h, _, err := frame.ParseHeader(b)
	if err != nil || h.Length > 32<<10-frame.MaxHeader {
		return 0, io.ErrUnexpectedEOF // more than fits: this echo is a simple one
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(u.br, payload); err != nil {
		return 0, err
	}
	frame.Mask(payload, h.Mask, 0)
	h.Masked = false
	return copy(p, append(frame.AppendHeader(nil, h), payload...)), nil
}
