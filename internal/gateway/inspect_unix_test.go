//go:build unix

package gateway_test

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/message"
	"github.com/wsbouncer/wsbouncer/policy"
)

// BenchmarkInspect is what rules cost: messages of 150 bytes from one client to one
// upstream, without rules and with one of five terms. cpu-ns/op is of the whole
// process, both peers included, so that the difference is what counts.
func BenchmarkInspect(b *testing.B) {
	rules, err := policy.Ruleset{Rules: []policy.Rule{{
		Actions: []string{"send"}, Scopes: []string{"chat"},
		Allow: `msg.room == claims.room && claims.tenant == "42" && size < 4096 && !(subject in ["eve"]) && msg.kind in ["a", "b"]`,
	}}}.Compile()
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(`{"type":"send","room":"lobby","kind":"a","id":"01JD8Z3Q7W","body":"hello over there, this is a message of some length, as people write","at":176}`)
	for name, p := range map[string]*gateway.Permissions{
		"plain": nil, "rules": {Format: "json", Options: message.Options{Action: "/type"}, Client: rules, OnDeny: policy.Reply},
	} {
		b.Run(name, func(b *testing.B) { inspect(b, p, text) })
	}
}

func inspect(b *testing.B, p *gateway.Permissions, text []byte) {
	none := limit.Rate{PerSecond: -1}
	one := frame.Append(nil, frame.Text, text, true)
	done := make(chan struct{})
	serve := func(c net.Conn, req *http.Request) {
		_ = c.SetDeadline(time.Time{})
		_, _ = c.Write(accepting(req))
		_, _ = io.CopyN(io.Discard, c, int64(b.N)*int64(len(one)))
		close(done)
		drain(c)
	}
	r := newRigOn(b, nil, gateway.Route{Permissions: p}, wsbouncer.Limits{MessageRate: none, ByteRate: none}, serve, nil)
	c := r.dial(bearer(r.issuer.With(map[string]any{"scope": "chat", "tenant": "42", "room": "lobby"})))
	if c.res.StatusCode != http.StatusSwitchingProtocols {
		b.Fatal(c.res.Status)
	}
	_ = c.conn.SetDeadline(time.Time{})
	before, heap := cpu(b), live()
	b.SetBytes(int64(len(text)))
	b.ResetTimer()
	for range b.N {
		if _, err := c.conn.Write(one); err != nil {
			b.Fatal(err)
		}
	}
	<-done
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
	b.ReportMetric((live()-heap)/1024, "heap-KB")
}

// cpu is what the process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// live is what the heap holds.
func live() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
