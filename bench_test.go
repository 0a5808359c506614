package wsbouncer_test

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/bouncertest"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// nobody is an Ender that costs nothing.
type nobody struct{}

func (nobody) End(wsbouncer.Reason) {}

// A handshake with a token that was verified before.
func BenchmarkAdmitAndTrack(b *testing.B) {
	is := bouncertest.NewIssuer(b)
	bo, _ := bouncer(b, func(o *wsbouncer.Options) { o.Verifier = is.Verifier() })
	r := handshake(bearer(is.Token("alice", "chat")))
	d := wsbouncer.Demand{Scopes: []string{"chat"}}
	b.ReportAllocs()
	for b.Loop() {
		a, err := bo.Admit(r, d)
		if err != nil {
			b.Fatal(err)
		}
		l, err := bo.Track(a, nobody{})
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Open(); err != nil {
			b.Fatal(err)
		}
		l.Release(reason.ClientGone)
	}
}

// fill opens total connections, of which some are alice's.
func fill(tb testing.TB, b *wsbouncer.Bouncer, w *wallet, total, some int) {
	for i := range total {
		raw := w.add(func(t *token.Token) {
			t.Session = fmt.Sprintf("session-%d", i)
			if i >= some {
				t.Subject = fmt.Sprintf("user-%d", i)
			}
		})
		a, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
		if err != nil {
			tb.Fatal(err)
		}
		l, err := b.Track(a, nobody{})
		if err != nil {
			tb.Fatal(err)
		}
		if err := l.Open(); err != nil {
			tb.Fatal(err)
		}
	}
}

func release(b *wsbouncer.Bouncer) {
	for l := range b.Live() {
		l.Release(reason.ClientGone)
	}
}

// One revocation that concerns 1 000 of 9 000 connections: by subject, which
// has an index, and by key, which is a scan.
func BenchmarkApply1000Of9000(b *testing.B) {
	for name, r := range map[string]wsbouncer.Revocation{
		"subject": wsbouncer.Subject("alice"), "nobody by key": wsbouncer.Key("k9"),
	} {
		b.Run(name, func(b *testing.B) {
			var spent time.Duration
			for range b.N {
				b.StopTimer()
				bo, w := bouncer(b, nil)
				fill(b, bo, w, 9000, 1000)
				runtime.GC()
				b.StartTimer()
				begin := time.Now()
				closed := bo.Apply(r)
				spent += time.Since(begin)
				b.StopTimer()
				if closed != 1000 && r.Kind == "subject" {
					b.Fatalf("closed %d", closed)
				}
				release(bo)
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "µs/apply")
		})
	}
}

// What one live connection costs here, with a token and session of its own.
func BenchmarkBytesPerLive(b *testing.B) {
	const n = 20_000
	var m0, m1 runtime.MemStats
	is := bouncertest.NewIssuer(b)
	for range b.N {
		bo, _ := bouncer(b, func(o *wsbouncer.Options) { o.Verifier = is.Verifier() })
		lives := make([]*wsbouncer.Live, 0, n)
		runtime.GC()
		runtime.ReadMemStats(&m0)
		var r *http.Request
		for i := range n {
			r = handshake(bearer(is.With(map[string]any{"sub": fmt.Sprintf("user-%d", i), "sid": fmt.Sprintf("session-%d", i), "scope": "chat"})))
			a, err := bo.Admit(r, wsbouncer.Demand{})
			if err != nil {
				b.Fatal(err)
			}
			l, err := bo.Track(a, nobody{})
			if err != nil {
				b.Fatal(err)
			}
			lives = append(lives, l)
		}
		runtime.GC()
		runtime.ReadMemStats(&m1)
		each := float64(m1.HeapAlloc-m0.HeapAlloc) / n
		if b.ReportMetric(each, "B/live"); each > 1250 {
			b.Errorf("%.0f bytes a connection: what keeps so much?", each)
		}
		runtime.KeepAlive(lives)
		release(bo)
	}
}
