package wheel_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the package promises.
const (
	late    = 50 * time.Millisecond
	noticed = 200 * time.Millisecond // a step of the clock is, after this
)

// An item is an owner of a timer that remembers when it fired.
type item struct {
	wheel.Timer
	mu    sync.Mutex
	fired []time.Time
	then  func(now time.Time)
}

func (i *item) Expire(t *wheel.Timer, now time.Time) {
	if t != &i.Timer {
		panic("another's timer")
	}
	i.mu.Lock()
	i.fired = append(i.fired, now)
	i.mu.Unlock()
	if i.then != nil {
		i.then(now)
	}
}

func (i *item) times() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]time.Time(nil), i.fired...)
}

// run starts the wheel and stops it, waiting, at the end of the test.
func run(t testing.TB, w *wheel.Wheel) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func sleepUntil(at time.Time) {
	time.Sleep(time.Until(at))
	synctest.Wait()
}

func TestNeverEarlyNeverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		run(t, w)
		// Deadlines at every level of the wheel, on ticks and just beside them.
		start := time.Now()
		var items []*item
		var at []time.Time
		for _, d := range []time.Duration{
			-time.Hour, 0, 1, time.Millisecond, 49 * time.Millisecond, 50 * time.Millisecond, 50*time.Millisecond + 1, 99 * time.Millisecond, time.Second,
			12750 * time.Millisecond, 12799 * time.Millisecond, 12800 * time.Millisecond, 12800*time.Millisecond + 1, 12850 * time.Millisecond, 13 * time.Second, 25600 * time.Millisecond, 5 * time.Minute,
			3276750 * time.Millisecond, 3276800 * time.Millisecond, 3276800*time.Millisecond + 1, time.Hour, 70 * time.Minute,
		} {
			i := &item{}
			items, at = append(items, i), append(at, start.Add(d))
			w.Schedule(&i.Timer, at[len(at)-1], i)
		}
		if w.Len() != len(items) {
			t.Errorf("%d armed, want %d", w.Len(), len(items))
		}
		for n, i := range items {
			if before := at[n].Add(-1); before.After(time.Now()) {
				sleepUntil(before)
				if len(i.times()) != 0 {
					t.Fatalf("%v fired early", at[n].Sub(start))
				}
			}
			sleepUntil(latest(at[n], start).Add(late))
			got := i.times()
			if len(got) != 1 {
				t.Fatalf("%v fired %d times", at[n].Sub(start), len(got))
			}
			if got[0].Before(at[n]) {
				t.Fatalf("%v fired at %v by the clock it was given", at[n].Sub(start), got[0].Sub(start))
			}
		}
		if w.Len() != 0 {
			t.Errorf("%d armed at the end", w.Len())
		}
	})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func TestRandomDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		run(t, w)
		r := rand.New(rand.NewPCG(1, 2))
		var fired atomic.Int64
		const n = 5000
		for range n {
			// Armed at odd moments, when the cursors stand anywhere.
			if r.IntN(4) == 0 {
				time.Sleep(time.Duration(r.Int64N(int64(100 * time.Millisecond))))
			}
			at := time.Now().Add(time.Duration(r.Int64N(int64(time.Duration(1) << (20 + r.IntN(21))))))
			i := &item{then: func(now time.Time) {
				fired.Add(1)
				if d := now.Sub(at); d < 0 || d > late {
					t.Errorf("fired %v after its deadline", d)
				}
			}}
			w.Schedule(&i.Timer, at, i)
		}
		time.Sleep(40 * time.Minute)
		synctest.Wait()
		if fired.Load() != n || w.Len() != 0 {
			t.Errorf("%d of %d fired, %d left", fired.Load(), n, w.Len())
		}
	})
}

// Eleven days go by on a clock that runs 50 times as fast: the wheel turns to its
// last slot and beyond, and still nothing is a step.
func TestBeyondTheWheel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const speed = 50
		start := time.Now()
		now := func() time.Time { return start.Add(time.Since(start) * speed) }
		w := wheel.NewWithClock(now)
		run(t, w)
		never := &item{}
		w.Schedule(&never.Timer, time.Unix(1<<62, 0), never)
		for _, d := range []time.Duration{0, time.Hour, 9 * 24 * time.Hour, 10 * 24 * time.Hour} {
			at := start.Add(d)
			i := &item{}
			i.then = func(now time.Time) {
				if d := now.Sub(at); d < 0 || d > speed*noticed {
					t.Errorf("fired %v after its deadline", d)
				}
			}
			w.Schedule(&i.Timer, at, i)
		}
		time.Sleep(11 * 24 * time.Hour / speed)
		synctest.Wait()
		if w.Len() != 1 || len(never.times()) != 0 {
			t.Errorf("%d armed after eleven days, want the one that never fires", w.Len())
		}
	})
}

func TestTimesOutOfRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		run(t, w)
		past, never := &item{}, &item{}
		w.Schedule(&past.Timer, time.Time{}, past)
		w.Schedule(&never.Timer, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), never)
		time.Sleep(late)
		synctest.Wait()
		if len(past.times()) != 1 || len(never.times()) != 0 {
			t.Errorf("the year 1 fired %d times, the year 9999 %d times", len(past.times()), len(never.times()))
		}
	})
}

func TestStopAndMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		run(t, w)
		start := time.Now()
		var stopped, later, sooner, twice, never item
		w.Stop(&never.Timer)
		w.Schedule(&stopped.Timer, start.Add(time.Second), &stopped)
		w.Schedule(&later.Timer, start.Add(time.Second), &later)
		w.Schedule(&sooner.Timer, start.Add(time.Hour), &sooner)
		w.Schedule(&twice.Timer, start.Add(time.Second), &twice)
		w.Stop(&stopped.Timer)
		w.Stop(&stopped.Timer)
		w.Schedule(&later.Timer, start.Add(time.Minute), &later)
		w.Schedule(&sooner.Timer, start.Add(2*time.Second), &sooner)
		if w.Len() != 3 {
			t.Errorf("%d armed, want 3", w.Len())
		}
		sleepUntil(start.Add(10 * time.Second))
		if len(stopped.times()) != 0 || len(later.times()) != 0 || len(sooner.times()) != 1 || len(twice.times()) != 1 {
			t.Errorf("after 10 s: %d %d %d %d", len(stopped.times()), len(later.times()), len(sooner.times()), len(twice.times()))
		}
		w.Schedule(&twice.Timer, start.Add(20*time.Second), &twice)
		sleepUntil(start.Add(time.Minute + late))
		if len(later.times()) != 1 || len(twice.times()) != 2 || w.Len() != 0 {
			t.Errorf("after a minute: %d %d, %d armed", len(later.times()), len(twice.times()), w.Len())
		}
	})
}

func TestRearmedInExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		run(t, w)
		start := time.Now()
		i := &item{}
		i.then = func(now time.Time) { w.Schedule(&i.Timer, now.Add(time.Second), i) }
		w.Schedule(&i.Timer, start.Add(time.Second), i)
		sleepUntil(start.Add(10*time.Second + late))
		if n := len(i.times()); n < 9 || n > 10 {
			t.Errorf("fired %d times in 10 s", n)
		}
		// A deadline that has passed, armed again and again, does not spin.
		w.Stop(&i.Timer)
		j := &item{}
		j.then = func(time.Time) { w.Schedule(&j.Timer, start, j) }
		w.Schedule(&j.Timer, start, j)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(j.times()); n < 10 || n > 21 {
			t.Errorf("fired %d times in a second of 20 ticks", n)
		}
	})
}

// A stepping clock: real (or synctest's) time and an offset.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

func TestClockSteps(t *testing.T) {
	for _, step := range []time.Duration{
		30 * time.Second, 5 * time.Minute, 2 * time.Hour, 400 * 24 * time.Hour, // forward: also what a suspend looks like
		-30 * time.Second, -5 * time.Minute, -2 * time.Hour, -400 * 24 * time.Hour, -10 * time.Millisecond, -60 * time.Millisecond, 60 * time.Millisecond, -190 * time.Millisecond, 190 * time.Millisecond,
	} {
		t.Run(step.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &clock{}
				w := wheel.NewWithClock(c.now)
				run(t, w)
				start := time.Now()
				time.Sleep(time.Second)
				var items []*item
				var at []time.Time
				for _, d := range []time.Duration{10 * time.Millisecond, 5 * time.Second, 20 * time.Second, time.Minute, 4 * time.Minute, 20 * time.Minute} {
					i := &item{}
					items, at = append(items, i), append(at, start.Add(time.Second+d))
					w.Schedule(&i.Timer, at[len(at)-1], i)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				c.offset.Store(int64(step))
				// One more is armed before anybody noticed.
				i := &item{}
				items, at = append(items, i), append(at, c.now().Add(700*time.Millisecond))
				w.Schedule(&i.Timer, at[len(at)-1], i)

				check := func() {
					synctest.Wait()
					now := c.now()
					for n, i := range items {
						got := i.times()
						switch {
						case len(got) > 1:
							t.Fatalf("%v fired %d times", at[n].Sub(start), len(got))
						case len(got) == 1 && got[0].Before(at[n]):
							t.Fatalf("%v fired at %v", at[n].Sub(start), got[0].Sub(start))
						case len(got) == 0 && now.Sub(at[n]) > late:
							t.Fatalf("%v has not fired at %v", at[n].Sub(start), now.Sub(start))
						}
					}
				}
				time.Sleep(noticed + time.Millisecond)
				check()
				for range 50 {
					time.Sleep(137 * time.Millisecond)
					check()
				}
				for range 30 {
					time.Sleep(time.Minute + time.Millisecond)
					check()
				}
			})
		})
	}
}

func TestSleepsWhileEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		w := wheel.NewWithClock(func() time.Time { reads.Add(1); return time.Now() })
		run(t, w)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := reads.Load(); n != 0 {
			t.Errorf("an empty wheel read the clock %d times", n)
		}
		i := &item{}
		at := time.Now().Add(time.Second)
		w.Schedule(&i.Timer, at, i)
		sleepUntil(at.Add(late))
		if len(i.times()) != 1 {
			t.Fatal("did not wake")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		before := reads.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := reads.Load() - before; n != 0 {
			t.Errorf("an emptied wheel read the clock %d times", n)
		}
	})
}

// wakes counts at how many moments a wheel in a bubble read the clock: how often
// it woke, or was armed while it was empty.
type wakes struct {
	mu    sync.Mutex
	count int
	last  time.Time
}

func (w *wakes) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !now.Equal(w.last) {
		w.count, w.last = w.count+1, now
	}
	return now
}

func (w *wakes) during(d time.Duration) int {
	synctest.Wait()
	w.mu.Lock()
	before := w.count
	w.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count - before
}

// A process with thousands of idle connections hardly ever wakes: the wheels,
// with all their shards, look at the clock at the same moments.
func TestSleepsWhileNothingIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c wakes
		start := time.Now()
		far := make([]item, 200)
		var w *wheel.Wheel
		for n := range far {
			if n%100 == 0 {
				w = wheel.NewWithClock(c.now)
				run(t, w)
			}
			time.Sleep(7 * time.Millisecond)
			w.Schedule(&far[n].Timer, start.Add(time.Hour), &far[n])
		}
		time.Sleep(time.Second)
		const minute, most = time.Minute, int(time.Minute / noticed)
		if n := c.during(minute); n > most+1 {
			t.Errorf("with nothing due for an hour, %d wake-ups in a minute, want %d", n, most)
		}
		// One that is due costs one more, and so does one that was stopped.
		var due, stopped item
		w.Schedule(&due.Timer, time.Now().Add(7030*time.Millisecond), &due)
		w.Schedule(&stopped.Timer, time.Now().Add(9130*time.Millisecond), &stopped)
		w.Stop(&stopped.Timer)
		if n := c.during(minute); n > most+3 || len(due.times()) != 1 {
			t.Errorf("with one due, %d wake-ups in a minute, want %d", n, most+2)
		}
	})
}

// However long a wheel would have slept, one that is due sooner is in time: armed
// or moved from outside, or by another that expires, when the wheel is empty and
// when it is not.
func TestAnEarlierOneRouses(t *testing.T) {
	for _, others := range []int{0, 100} {
		t.Run(fmt.Sprintf("beside %d", others), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := wheel.New()
				run(t, w)
				far := make([]item, others)
				for n := range far {
					w.Schedule(&far[n].Timer, time.Now().Add(time.Hour), &far[n])
				}
				inTime := func(at time.Time) *item {
					i := &item{}
					i.then = func(now time.Time) {
						if d := now.Sub(at); d < 0 || d > late {
							t.Errorf("fired %v after its deadline", d)
						}
					}
					return i
				}
				var all []*item
				for n := range 100 {
					// Moments and deadlines anywhere between two looks at the clock.
					time.Sleep(time.Duration(n) * 13 * time.Millisecond)
					synctest.Wait()
					for _, d := range []time.Duration{170, 120, 70, 20, 1, 0} {
						at := time.Now().Add(d * time.Millisecond)
						i := inTime(at)
						moved := inTime(at)
						w.Schedule(&moved.Timer, at.Add(time.Hour), moved)
						w.Schedule(&i.Timer, at, i)
						w.Schedule(&moved.Timer, at, moved)
						by := &item{then: func(now time.Time) {
							j := inTime(now.Add(d * time.Millisecond))
							w.Schedule(&j.Timer, now.Add(d*time.Millisecond), j)
						}}
						w.Schedule(&by.Timer, at, by)
						all = append(all, i, moved)
						synctest.Wait()
					}
				}
				time.Sleep(time.Second)
				synctest.Wait()
				for _, i := range all {
					if len(i.times()) != 1 {
						t.Fatalf("fired %d times", len(i.times()))
					}
				}
				if w.Len() != others {
					t.Errorf("%d are armed, want %d", w.Len(), others)
				}
			})
		})
	}
}

// Timers come and go one by one while the wheel falls asleep and is roused. Were
// one overlooked, this would never end.
func TestNobodyIsOverlooked(t *testing.T) {
	w := wheel.New()
	run(t, w)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 2))
			fired := make(chan struct{})
			i := &item{then: func(time.Time) { fired <- struct{}{} }}
			for range 20 {
				w.Schedule(&i.Timer, time.Now().Add(time.Duration(r.IntN(int(50*time.Millisecond)))), i)
				<-fired
			}
		})
	}
	wg.Wait()
}

func TestArmedBeforeRunAndAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wheel.New()
		i := &item{}
		w.Schedule(&i.Timer, time.Now().Add(time.Second), i)
		time.Sleep(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = w.Run(ctx); close(done) }()
		time.Sleep(late)
		synctest.Wait()
		if len(i.times()) != 1 {
			t.Error("what was due before Run did not fire")
		}
		cancel()
		<-done
		w.Schedule(&i.Timer, time.Now(), i)
		time.Sleep(time.Second)
		synctest.Wait()
		if len(i.times()) != 1 || w.Len() != 1 {
			t.Error("fired without Run")
		}
	})
}

// Everything at once from many goroutines; the race detector and the count at
// the end judge.
func TestConcurrentUse(t *testing.T) {
	w := wheel.New()
	run(t, w)
	var wg sync.WaitGroup
	shared := make([]item, 64)
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1)) // the same moves every time
			for range 3000 {
				i := &shared[r.IntN(len(shared))]
				switch r.IntN(3) {
				case 0:
					w.Stop(&i.Timer)
				case 1:
					w.Schedule(&i.Timer, time.Now().Add(time.Duration(r.IntN(int(200*time.Millisecond)))), i)
				case 2:
					w.Schedule(&i.Timer, time.Now().Add(time.Hour), i)
				}
			}
		})
	}
	wg.Wait()
	done := make(chan struct{}, len(shared))
	for n := range shared {
		i := &shared[n]
		w.Stop(&i.Timer)
	}
	if w.Len() != 0 {
		t.Fatalf("%d armed after all were stopped", w.Len())
	}
	for n := range shared {
		last := &item{then: func(time.Time) { done <- struct{}{} }}
		w.Schedule(&last.Timer, time.Now().Add(time.Duration(n)*time.Millisecond), last)
	}
	for range shared {
		<-done
	}
}

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(wheel.Timer{}); n > 64 {
		t.Errorf("a timer takes %d bytes", n)
	}
}

// BenchmarkBurst has a hundred thousand due within a second and reports how late
// the last of them was, beside timers of the runtime.
func BenchmarkBurst(b *testing.B) {
	const n = 100_000
	bursts := func(b *testing.B, schedule func(item *burst)) {
		var worst atomic.Int64
		for b.Loop() {
			var left sync.WaitGroup
			left.Add(n)
			start := time.Now().Add(500 * time.Millisecond)
			items := make([]burst, n)
			for i := range items {
				item := &items[i]
				item.at, item.worst, item.left = start.Add(time.Duration(i)*time.Second/n), &worst, &left
				schedule(item)
			}
			left.Wait()
		}
		b.ReportMetric(float64(worst.Load())/1e6, "ms-late")
	}
	b.Run("wheel", func(b *testing.B) {
		w := wheel.New()
		run(b, w)
		bursts(b, func(item *burst) { w.Schedule(&item.Timer, item.at, item) })
	})
	b.Run("AfterFunc", func(b *testing.B) {
		bursts(b, func(item *burst) { time.AfterFunc(time.Until(item.at), func() { item.Expire(nil, time.Time{}) }) })
	})
}

type burst struct {
	wheel.Timer
	at    time.Time
	worst *atomic.Int64
	left  *sync.WaitGroup
}

func (b *burst) Expire(_ *wheel.Timer, _ time.Time) {
	d := int64(time.Since(b.at))
	for old := b.worst.Load(); d > old && !b.worst.CompareAndSwap(old, d); old = b.worst.Load() {
	}
	b.left.Done()
}

type nobody struct{}

func (nobody) Expire(*wheel.Timer, time.Time) {}

func BenchmarkScheduleStop(b *testing.B) {
	for _, n := range []int{0, 1000, 1_000_000} {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			w := wheel.New()
			run(b, w)
			others := make([]wheel.Timer, n)
			at := time.Now().Add(time.Minute)
			for i := range others {
				w.Schedule(&others[i], at.Add(time.Duration(i)*time.Millisecond), nobody{})
			}
			var t wheel.Timer
			b.ReportAllocs()
			for b.Loop() {
				w.Schedule(&t, at, nobody{})
				w.Stop(&t)
			}
		})
	}
}

func BenchmarkReschedule(b *testing.B) {
	w := wheel.New()
	at := time.Now().Add(time.Minute)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		var t wheel.Timer
		for i := time.Duration(0); p.Next(); i++ {
			w.Schedule(&t, at.Add(i*time.Microsecond), nobody{})
		}
	})
}
