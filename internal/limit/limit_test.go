package limit_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

var start = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

func TestDecide(t *testing.T) {
	r := limit.Rate{PerSecond: 10, Burst: 3}
	var state int64
	var ok bool
	var retry time.Duration
	step := func(at time.Duration, cost int, wantOK bool, wantRetry time.Duration) {
		t.Helper()
		state, ok, retry = r.Decide(state, start.Add(at), cost)
		if ok != wantOK || retry != wantRetry {
			t.Errorf("at %v cost %d: %v, retry %v; want %v, %v", at, cost, ok, retry, wantOK, wantRetry)
		}
	}
	step(0, 1, true, 0)
	step(0, 1, true, 0)
	step(0, 1, true, 0)
	step(0, 1, false, 100*time.Millisecond)
	step(0, 1, false, 100*time.Millisecond) // a refusal costs nothing
	step(99*time.Millisecond, 1, false, time.Millisecond)
	step(100*time.Millisecond, 1, true, 0)
	step(100*time.Millisecond, 2, false, 200*time.Millisecond)
	step(300*time.Millisecond, 2, true, 0)
	step(time.Hour, 3, true, 0)
	step(time.Hour, 0, true, 0)
	step(2*time.Hour, 4, false, 100*time.Millisecond)
	step(2*time.Hour, 1000, false, 300*time.Millisecond)
	step(2*time.Hour, -1, true, 0)

	// The clock steps back a day: a full bucket's wait, not a day's.
	for range 3 {
		step(2*time.Hour, 1, true, 0)
	}
	step(-24*time.Hour, 1, false, 100*time.Millisecond)
	step(-24*time.Hour+300*time.Millisecond, 3, true, 0)
}

func TestDecideAtTheEdges(t *testing.T) {
	for name, r := range map[string]limit.Rate{"zero": {}, "negative": {PerSecond: -1, Burst: 1}} {
		if !r.IsZero() {
			t.Errorf("%s is a limit", name)
		}
		var state int64
		for range 100 {
			var ok bool
			if state, ok, _ = r.Decide(state, start, 1<<30); !ok {
				t.Fatalf("%s refuses", name)
			}
		}
	}
	// Without a burst one passes at a time.
	state, ok, _ := limit.Rate{PerSecond: 1}.Decide(0, start, 1)
	if !ok {
		t.Error("burst 0 refuses the first")
	}
	if _, ok, retry := (limit.Rate{PerSecond: 1}).Decide(state, start, 1); ok || retry != time.Second {
		t.Errorf("burst 0: second %v, retry %v", ok, retry)
	}
	// Nothing is free at a very high rate, nothing overflows at a very low one.
	high := limit.Rate{PerSecond: 1e18, Burst: 10}
	if next, _, _ := high.Decide(0, start, 1); next <= start.UnixNano() {
		t.Error("free of charge")
	}
	low := limit.Rate{PerSecond: 1e-300, Burst: 1 << 40}
	next, ok, _ := low.Decide(0, start, 1)
	if !ok || next < start.UnixNano() {
		t.Errorf("overflow: %d %v", next, ok)
	}
	if _, ok, retry := low.Decide(next, start, 1); ok || retry <= 0 {
		t.Errorf("overflow: %v, retry %v", ok, retry)
	}
}

// Over any stretch no more passes than the burst and the rate allow, and
// whoever waits for retry passes.
func TestDecideNeverLetsMoreThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := limit.Rate{PerSecond: rapid.Float64Range(0.01, 1e6).Draw(t, "rate"), Burst: rapid.IntRange(1, 1000).Draw(t, "burst")}
		now, passed := start, 0
		var state int64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause")))
			cost := rapid.IntRange(1, r.Burst).Draw(t, "cost")
			next, ok, retry := r.Decide(state, now, cost)
			if ok {
				passed += cost
			} else if _, ok, _ := r.Decide(next, now.Add(retry), cost); !ok {
				t.Fatalf("refused after the wait of %v it named", retry)
			}
			state = next
		}
		if bound := float64(r.Burst) + r.PerSecond*now.Sub(start).Seconds() + 1e-6*float64(passed) + 1; float64(passed) > bound {
			t.Fatalf("%d passed, at most %f may", passed, bound)
		}
	})
}

func TestKeyed(t *testing.T) {
	l := limit.NewKeyed[string](limit.Rate{PerSecond: 1, Burst: 2}, 100)
	for range 2 {
		if ok, _ := l.Check("a", start); !ok {
			t.Fatal("Check refuses")
		}
		if ok, _ := l.Allow("a", start); !ok {
			t.Fatal("Allow refuses within the burst")
		}
	}
	if ok, retry := l.Allow("a", start); ok || retry != time.Second {
		t.Errorf("third: %v, retry %v", ok, retry)
	}
	if ok, retry := l.Check("a", start); ok || retry != time.Second {
		t.Errorf("Check: %v, retry %v", ok, retry)
	}
	if ok, _ := l.Allow("b", start); !ok {
		t.Error("another key pays")
	}
	l.Forgive("a")
	if ok, _ := l.Allow("a", start); !ok {
		t.Error("Forgive gave nothing back")
	}
	if ok, _ := l.Allow("a", start); ok {
		t.Error("Forgive gave more than one back")
	}
	for range 10 {
		l.Forgive("b")
	}
	l.Forgive("unknown")
	passed := 0
	for range 10 {
		if ok, _ := l.Allow("b", start); ok {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d passed after too many Forgives, want the burst", passed)
	}
	for range 1000 {
		l.Spend("c", start)
	}
	if ok, retry := l.Check("c", start); ok || retry != time.Second {
		t.Errorf("after many Spends: %v, retry %v", ok, retry)
	}

	none := limit.NewKeyed[int](limit.Rate{}, 1)
	for i := range 100 {
		none.Spend(i, start)
		none.Forgive(i)
		if ok, _ := none.Allow(i, start); !ok {
			t.Fatal("no limit refuses")
		}
		if ok, _ := none.Check(i, start); !ok {
			t.Fatal("no limit refuses")
		}
	}
	if none.Len() != 0 {
		t.Error("no limit keeps keys")
	}
}

func TestDOSEvictionGivesNoFreshAllowance(t *testing.T) {
	const size = 8
	l := limit.NewKeyed[int](limit.Rate{PerSecond: 1, Burst: 5}, size)
	for range 6 {
		l.Allow(-1, start)
	}
	if ok, _ := l.Allow(-1, start); ok {
		t.Fatal("not exhausted")
	}
	for i := range 1000 {
		l.Allow(i, start)
	}
	if l.Len() != size {
		t.Fatalf("%d keys in a table of %d", l.Len(), size)
	}
	if ok, _ := l.Check(-1, start); ok {
		t.Error("Check: eviction gave a fresh allowance")
	}
	if ok, _ := l.Allow(-1, start); ok {
		t.Error("Allow: eviction gave a fresh allowance")
	}
	// The debt is paid like any other: nobody is shut out for good.
	later := start.Add(5 * time.Second)
	if ok, _ := l.Allow(9999, later); !ok {
		t.Error("a newcomer is refused after a bucket's time")
	}
	// A clock that was ahead for a while does not shut newcomers out either.
	for i := range 100 {
		l.Allow(i, later.Add(24*time.Hour))
	}
	if ok, retry := l.Allow(12345, later); !ok && retry > 5*time.Second {
		t.Errorf("newcomer waits %v", retry)
	}
	if ok, _ := l.Allow(12345, later.Add(6*time.Second)); !ok {
		t.Error("a newcomer is refused for the clock's past")
	}
}

func TestEvictingTheIdleCostsNobody(t *testing.T) {
	l := limit.NewKeyed[int](limit.Rate{PerSecond: 1, Burst: 1}, 4)
	now := start
	for i := range 100 {
		now = now.Add(time.Second)
		if ok, _ := l.Allow(i, now); !ok {
			t.Fatalf("newcomer %d refused though every evicted bucket was full", i)
		}
	}
}

func TestDOS03Count(t *testing.T) {
	c := limit.NewCount[string](2)
	for n, want := range []bool{true, true, false, false} {
		if got := c.Acquire("a"); got != want {
			t.Errorf("place %d: %v, want %v", n+1, got, want)
		}
	}
	if !c.Acquire("b") || c.Len("a") != 2 {
		t.Error("counted wrong")
	}
	c.Release("a")
	if !c.Acquire("a") || c.Acquire("a") {
		t.Error("a place given back is not there")
	}
	for range 5 {
		c.Release("a")
	}
	if c.Len("a") != 0 || !c.Acquire("a") || !c.Acquire("a") || c.Acquire("a") {
		t.Error("too many releases made room")
	}
	free := limit.NewCount[int](0)
	for range 100 {
		if !free.Acquire(1) {
			t.Fatal("no maximum refuses")
		}
	}
	if free.Len(1) != 100 {
		t.Error("no maximum does not count")
	}
}

func TestCountUnderConcurrency(t *testing.T) {
	c := limit.NewCount[int](3)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if c.Acquire(1) {
					if n := c.Len(1); n > 3 {
						t.Errorf("%d live", n)
					}
					c.Release(1)
				}
			}
		})
	}
	wg.Wait()
	if c.Len(1) != 0 {
		t.Errorf("%d left", c.Len(1))
	}
}

func TestCache(t *testing.T) {
	c := limit.NewCache[int, string](3)
	for i, v := range []string{"zero", "one", "two"} {
		c.Put(i, v)
	}
	if v, ok := c.Get(0); v != "zero" || !ok {
		t.Errorf("Get(0) = %q, %v", v, ok)
	}
	c.Put(3, "three") // 1 is the longest unused
	if _, ok := c.Get(1); ok {
		t.Error("the longest unused entry stayed")
	}
	if _, ok := c.Get(0); !ok {
		t.Error("a used entry went")
	}
	c.Put(0, "null")
	if v, _ := c.Get(0); v != "null" || c.Len() != 3 {
		t.Errorf("%q, %d entries", v, c.Len())
	}
	c.Delete(0)
	c.Delete(77)
	if _, ok := c.Get(0); ok || c.Len() != 2 {
		t.Error("Delete")
	}
	c.Clear()
	if _, ok := c.Get(3); ok || c.Len() != 0 {
		t.Error("Clear")
	}
	for i := range 1000 {
		c.Put(i, "")
	}
	if c.Len() != 3 {
		t.Errorf("%d entries in a cache of 3", c.Len())
	}
}

func TestTablesUnderConcurrency(t *testing.T) {
	c, k := limit.NewCache[int, int](16), limit.NewKeyed[int](limit.Rate{PerSecond: 1, Burst: 3}, 16)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				n := (i * (g + 1)) % 64
				if v, ok := c.Get(n); ok && v != n {
					t.Errorf("key %d has %d", n, v)
				}
				c.Put(n, n)
				k.Allow(n, start)
				if i%97 == 0 {
					c.Delete(n)
					k.Forgive(n)
				}
			}
		})
	}
	wg.Wait()
	if c.Len() > 16 || k.Len() > 16 {
		t.Errorf("%d and %d entries", c.Len(), k.Len())
	}
}

func TestIPKey(t *testing.T) {
	for addr, want := range map[string]string{
		"203.0.113.7":            "203.0.113.7/32",
		"::ffff:203.0.113.7":     "203.0.113.7/32",
		"2001:db8:1:2:3:4:5:6":   "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::1":   "2001:db8:1:2::/64",
		"fe80::1%eth0":           "fe80::/64",
		"::1":                    "::/64",
		"2001:db8:1:3:3:4:5:6%x": "2001:db8:1:3::/64",
	} {
		if got := limit.IPKey(netip.MustParseAddr(addr)); got != netip.MustParsePrefix(want) {
			t.Errorf("IPKey(%s) = %v, want %s", addr, got, want)
		}
	}
	if got := limit.IPKey(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("no address: %v", got)
	}
}

func BenchmarkDecide(b *testing.B) {
	r := limit.Rate{PerSecond: 1e6, Burst: 1000}
	now := start
	var state int64
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Microsecond)
		state, _, _ = r.Decide(state, now, 1)
	}
}

func BenchmarkKeyedAllow(b *testing.B) {
	l := limit.NewKeyed[netip.Prefix](limit.Rate{PerSecond: 20, Burst: 60}, 1<<16)
	keys := make([]netip.Prefix, 1024)
	for i := range keys {
		keys[i] = limit.IPKey(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		l.Allow(keys[i&1023], start)
		i++
	}
}

func BenchmarkCacheGet(b *testing.B) {
	c := limit.NewCache[[32]byte, *int](1 << 12)
	var keys [1024][32]byte
	for i := range keys {
		keys[i][0], keys[i][1] = byte(i), byte(i>>8)
		c.Put(keys[i], new(int))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		c.Get(keys[i&1023])
		i++
	}
}
