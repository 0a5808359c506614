package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// DOS-01 to DOS-05: what a route says of limits holds on that route, for more and
// for less than the global ones, and on no other.
func TestDOS01LimitsOfARouteAreThatRoutes(t *testing.T) {
	t.Parallel()
	const (
		strict = "{connections_per_subject: 1, query_token_ttl: 60s, message_bytes: 1KiB, message_rate: {rate: 1/s, burst: 5}, byte_rate: {rate: 1KiB/s, burst: 4KiB}, idle_timeout: 1s, write_timeout: 1s, lifetime: 2s}"
		wide   = "{connections_per_subject: 9, query_token_ttl: 1h, message_bytes: 1MiB, message_rate: {rate: 99/s, burst: 99}, byte_rate: {rate: 1MiB/s, burst: 1MiB}, idle_timeout: 60s, write_timeout: 60s, lifetime: 1h}"
	)
	for name, c := range map[string]struct{ global, route string }{"a strict route": {wide, strict}, "a wide route": {strict, wide}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := newUpstream(t, script{"/strict/pour": pourHuge, "/wide/pour": pourHuge}.serve)
			iss := newIssuer(t, "https://idp.example")
			paths := [2]string{"/strict", "/wide"}
			own, plain := paths[0], paths[1]
			if c.route == wide {
				own, plain = plain, own
			}
			s := start(t, up, trustYAML(iss.name)+"limits: "+strings.TrimSuffix(c.global, "}")+", handshakes_per_ip: {rate: 1000/s, burst: 1000}}\n"+fmt.Sprintf(`routes:
  - {path: "%s/{how}", upstream: "ws://UPSTREAM", token_from: [header, query], limits: %s}
  - {path: "%s/{how}", upstream: "ws://UPSTREAM", token_from: [header, query]}
`, own, c.route, plain), iss.trusted)
			who := 0
			token := func() string { who++; return bearer(iss.token(claims{"sub": fmt.Sprint("user", who)})) }
			open := func(what string) (strict, wide *client) {
				return s.connect("/strict/"+what, token()), s.connect("/wide/"+what, token())
			}
			// What takes time, first.
			began := time.Now()
			idleStrict, idleWide := open("idle")
			lifeStrict, lifeWide := open("life")
			life := lifeStrict.watch() // which answers pings
			pourStrict, pourWide := open("pour")

			one, other := iss.token(claims{"sid": "a"}), iss.token(claims{"sid": "b"})
			s.connect("/strict/subjects", bearer(one)).alive()
			s.refused(429, "too_many_connections", "/strict/subjects", bearer(other))
			s.connect("/wide/subjects", bearer(one)).alive()
			s.connect("/wide/subjects", bearer(other)).alive()

			s.refused(401, "token_lifetime", "/strict/query?token="+iss.token())
			s.connect("/wide/query?token=" + iss.token(claims{"sub": "carl"})).alive()

			a, b := open("bytes")
			big := strings.Repeat("x", 2<<10)
			a.text(big).failed(1009, "message_too_big")
			b.text(big).receives(big)

			a, b = open("messages")
			var tooMuch []<-chan ending
			tooMuch = append(tooMuch, a.watch())
			for range 10 {
				_, _ = a.conn.Write(frame.Append(nil, frame.Text, []byte("x"), true))
				b.text("x").receives("x")
			}

			a, b = open("rate")
			tooMuch = append(tooMuch, a.watch())
			kib := strings.Repeat("x", 1000)
			for range 5 { // as many messages as are allowed
				_, _ = a.conn.Write(frame.Append(nil, frame.Binary, []byte(kib), true))
				b.text(kib).receives(kib)
			}

			for _, ends := range tooMuch {
				(<-ends).want(t, 1008, "rate_limited")
			}
			idleStrict.closes(1001, "idle")
			if e := (<-life).want(t, 1001, "lifetime"); e.at.Sub(began) < 2*time.Second {
				t.Errorf("lifetime was over after %v", e.at.Sub(began))
			}
			up.of(pourStrict).ended() // nobody read there
			idleWide.alive()
			lifeWide.alive()
			select {
			case <-up.of(pourWide).gone:
				t.Error("who does not read was cut before the route's write_timeout")
			default:
			}
		})
	}
}

// pourHuge sends until nobody takes it.
func pourHuge(c *upConn) {
	c.accept()
	b := frame.Append(nil, frame.Binary, []byte(stuffing[:1000]), false)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}
