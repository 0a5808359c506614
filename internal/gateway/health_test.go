package gateway

import (
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

func TestHealthPausesDouble(t *testing.T) {
	for name, unreachable := range map[string]bool{"unreachable": true, "bad answers": false} {
		t.Run(name, func(t *testing.T) {
			var h health
			now := epoch
			for i := range failuresAside {
				if s := h.standing(now); s != good {
					t.Fatalf("after %d failures %v", i, s)
				}
				if put := h.failure(unreachable, now, now, 0); put != (i == failuresAside-1) {
					t.Fatalf("after %d failures put aside: %v", i+1, put)
				}
			}
			for _, pause := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
				pause *= time.Second
				if s := h.standing(now.Add(pause - 1)); s != aside && s != avoided {
					t.Fatalf("before %v are over: %v", pause, s)
				}
				now = now.Add(pause)
				if h.standing(now) != due || !h.choose(now) {
					t.Fatalf("after %v no trial", pause)
				}
				if s := h.standing(now); s != taken && s != avoided || h.choose(now) {
					t.Fatalf("during a trial %v", s)
				}
				h.ended()
				if !h.failure(unreachable, now, now, 0) {
					t.Fatal("a failed trial changes nothing")
				}
			}
			if !h.success(now) || h.standing(now) != good || h.success(now) {
				t.Error("it does not come back, once")
			}
			if h.failure(unreachable, now, now, 0) {
				t.Error("after a success one failure is enough")
			}
		})
	}
}

// An upstream that cannot be reached is tried by one at a time, before its pause
// is over too; one with bad answers by everybody.
func TestHealthOnlyTheUnreachableAreRefused(t *testing.T) {
	put := func(unreachable bool) *health {
		h := &health{}
		for range failuresAside {
			h.failure(unreachable, epoch, epoch, 0)
		}
		return h
	}
	h := put(true)
	if h.standing(epoch) != aside || !h.choose(epoch) || h.standing(epoch) != taken {
		t.Error("no early trial")
	}
	// An early trial that fails makes no pause longer.
	h.ended()
	if h.failure(true, epoch, epoch.Add(time.Second/2), 0) || h.standing(epoch.Add(time.Second)) != due {
		t.Error("early trials make the pause longer")
	}
	// One that finds a server with bad answers finds a server.
	h.failure(false, epoch, epoch, 0)
	if h.standing(epoch) != avoided {
		t.Error("it was reached, and is still aside")
	}
	h = put(false)
	for range 100 {
		if h.standing(epoch) != avoided || h.choose(epoch) {
			t.Fatal("bad answers make an upstream refuse others")
		}
		h.failure(false, epoch, epoch, 0)
	}
	if h.pause != pauseMin {
		t.Errorf("a crowd's failures made the pause %v", h.pause)
	}
}

func TestHealthFailuresFromBeforeASuccessAreOld(t *testing.T) {
	var h health
	h.success(epoch.Add(time.Second))
	for range 100 {
		if h.failure(false, epoch, epoch.Add(10*time.Second), 0) {
			t.Fatal("put aside for what began before it worked for somebody else")
		}
	}
}

func TestHealthJitterKeepsTheBounds(t *testing.T) {
	for range 1000 {
		h := health{failures: failuresAside - 1}
		j := rand.Float64()
		h.failure(true, epoch, epoch, j)
		if d := h.until.Sub(epoch); d < pauseMin*3/4 || d > pauseMin {
			t.Fatalf("jitter %v: %v", j, d)
		}
	}
}

func TestHealthChecks(t *testing.T) {
	var h health
	if h.checked(false, 2, epoch) || h.standing(epoch) != good || h.checked(true, 1, epoch) || h.checked(false, 2, epoch) ||
		!h.checked(false, 2, epoch) || h.standing(epoch) != out {
		t.Error("the second failed check in a row takes it out, not the first")
	}
	if h.checked(false, 2, epoch) {
		t.Error("a third is no news")
	}
	for range failuresAside {
		h.failure(true, epoch, epoch, 0)
	}
	if h.standing(epoch) != aside || h.standing(epoch.Add(time.Hour)) != aside {
		t.Error("out and unreachable: neither out alone nor due")
	}
	for range 2 { // one failure between them, and they are not in a row
		if h.checked(true, 2, epoch) || h.standing(epoch) != aside {
			t.Error("one check that passes brings it back, not two")
		}
		h.checked(false, 2, epoch)
	}
	h.checked(true, 2, epoch)
	if !h.checked(true, 2, epoch) || h.standing(epoch) != good || h.checked(true, 2, epoch) {
		t.Error("checks that pass bring it back, once")
	}
	for range failuresAside {
		h.failure(false, epoch, epoch, 0)
	}
	if h.checked(true, 2, epoch) || h.standing(epoch) != avoided {
		t.Error("a check tells nothing of how handshakes are answered")
	}
}
