package wheel

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tick = 50 * time.Millisecond
	// look is how many ticks a goroutine of Run sleeps at most while something is
	// armed: a step of the wall clock is noticed when it wakes. A power of two,
	// and all wake at its multiples, so that several wheels wake a process once.
	look = 4
	// never is the tick that is waited for while nothing is armed.
	never = math.MaxInt64
	// shards is a power of two: enough that goroutines seldom meet at a lock,
	// few enough that a tick over empty ones is nothing.
	shards = 32
	// maxWorkers bounds the goroutines of Run; each wakes on its own.
	maxWorkers = 8
	// batch is how many of one shard expire before the others have their turn.
	batch = 128
)

// An Expirer is told when a timer it was armed with is due. Expire is called
// without any lock of the wheel, at most once for each Schedule, on one of the
// goroutines of Run; now is the wall clock, not before the deadline. It must not
// block: others wait behind it. It may Schedule t again, and stop or schedule
// any other timer.
type Expirer interface {
	Expire(t *Timer, now time.Time)
}

// A Timer is one deadline, to be embedded in its owner. The zero value is ready.
// It must not be copied once armed, and belongs to the wheel it was first armed
// in.
type Timer struct {
	home atomic.Pointer[shard]

	// Guarded by home's lock.
	next *Timer
	prev **Timer // what points to this timer; nil: not armed
	at   int64   // Unix nanoseconds
	e    Expirer
}

// A Wheel holds timers. All methods are safe for concurrent use.
type Wheel struct {
	now     func() time.Time
	shards  [shards]shard
	robin   atomic.Uint32 // deals new timers to the shards
	workers []worker
}

// New makes a wheel. It starts nothing: timers fire while Run runs.
func New() *Wheel { return newWheel(time.Now) }

func newWheel(now func() time.Time) *Wheel {
	w := &Wheel{now: now, workers: make([]worker, min(runtime.GOMAXPROCS(0), maxWorkers))}
	for i := range w.workers {
		w.workers[i].wake = make(chan struct{}, 1)
		w.workers[i].next.Store(never)
	}
	for i := range w.shards {
		s := &w.shards[i]
		s.worker, s.dueEnd = &w.workers[i%len(w.workers)], &s.due
	}
	return w
}

// Schedule arms t, or moves it when it is armed, to fire when the wall clock
// reads at: at once (with the next tick at the latest) when that has passed. The monotonic
// part of at is not looked at. A time too far to count fires at the end of
// int64 nanoseconds, in the year 2262.
func (w *Wheel) Schedule(t *Timer, at time.Time, e Expirer) {
	s := t.home.Load()
	if s == nil {
		t.home.CompareAndSwap(nil, &w.shards[w.robin.Add(1)%shards])
		s = t.home.Load()
	}
	s.mu.Lock()
	if t.prev != nil {
		s.unlink(t)
	} else if s.armed.Add(1) == 1 {
		// The cursor stood still while there was nothing to do.
		s.cursor = tickOf(w.now().UnixNano())
	}
	t.at, t.e = nanosOf(at), e
	due := s.place(t, s.cursor+1)
	s.mu.Unlock()
	if s.worker.lower(due) {
		s.worker.rouse()
	}
}

// Stop disarms t; one that is not armed is left alone. It does not wait: an
// Expire that was about to be called may still be, so owners check their own
// state there.
func (w *Wheel) Stop(t *Timer) {
	s := t.home.Load()
	if s == nil {
		return
	}
	s.mu.Lock()
	if t.prev != nil {
		s.unlink(t)
		s.disarmed(t)
	}
	s.mu.Unlock()
}

// Len is how many timers are armed.
func (w *Wheel) Len() int {
	var n int64
	for i := range w.shards {
		n += w.shards[i].armed.Load()
	}
	return int(n)
}

// Run fires timers until ctx ends, and returns when the last Expire has. The
// error is nil. Timers still armed then stay armed. One Run at a time.
func (w *Wheel) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i := range w.workers {
		wg.Go(func() { w.work(ctx, i) })
	}
	wg.Wait()
	return nil
}

// A worker fires the timers of every len(workers)-th shard.
type worker struct {
	// next is the tick to wake at, or never. What may need an earlier one lowers
	// it; only the worker raises it, before it looks at its shards, so that what
	// is armed meanwhile is either found there or has lowered it again.
	next atomic.Int64
	wake chan struct{} // next was lowered
	_    [48]byte      // a cache line each
}

func (k *worker) lower(tick int64) bool {
	for old := k.next.Load(); tick < old; old = k.next.Load() {
		if k.next.CompareAndSwap(old, tick) {
			return true
		}
	}
	return false
}

func (k *worker) rouse() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (w *Wheel) work(ctx context.Context, id int) {
	k := &w.workers[id]
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		k.next.Store(never)
		for more := true; more; {
			more = false
			for i := id; i < shards; i += len(w.workers) {
				if w.fire(ctx, &w.shards[i]) {
					more = true
				}
			}
			if ctx.Err() != nil {
				return
			}
		}
		if !w.sleep(ctx, k, timer) {
			return
		}
	}
}

// sleep waits until the wall clock should read k's next tick, or may have been
// stepped unnoticed for long enough. It reports false when ctx ended.
func (w *Wheel) sleep(ctx context.Context, k *worker, timer *time.Timer) bool {
	for {
		var elapsed <-chan time.Time
		if next := k.next.Load(); next != never {
			now := w.now().UnixNano()
			next = min(next, nextLook(tickOf(now)))
			if next <= tickOf(now) {
				return true
			}
			timer.Reset(time.Duration(next*int64(tick) - now))
			elapsed = timer.C
		}
		select {
		case <-elapsed:
			return true
		case <-k.wake:
		case <-ctx.Done():
			return false
		}
	}
}

// fire expires at most a batch of what is due in s and reports whether more may
// be.
func (w *Wheel) fire(ctx context.Context, s *shard) (more bool) {
	if s.armed.Load() == 0 {
		return false
	}
	now := w.now()
	s.advance(tickOf(now.UnixNano()))
	for range batch {
		t, e := s.pop()
		if t == nil {
			return false
		}
		e.Expire(t, now)
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// tickOf is the last tick that the wall clock t has reached.
func tickOf(t int64) int64 {
	n := t / int64(tick)
	if t%int64(tick) < 0 {
		n--
	}
	return n
}

// nextLook is the first multiple of look after tick n.
func nextLook(n int64) int64 { return (n | (look - 1)) + 1 }

// dueOf is the first tick at which t has passed.
func dueOf(t int64) int64 {
	n := tickOf(t)
	if n*int64(tick) != t {
		n++
	}
	return n
}

// nanosOf is t in Unix nanoseconds, and the nearest there is beyond their range.
func nanosOf(t time.Time) int64 {
	const edge = 1<<63/1_000_000_000 - 1
	switch s := t.Unix(); {
	case s >= edge:
		return edge * 1_000_000_000
	case s <= -edge:
		return -edge * 1_000_000_000
	}
	return t.UnixNano()
}
