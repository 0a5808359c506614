package wheel

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tick = 50 * time.Millisecond
	// shards is a power of two: enough that goroutines seldom meet at a lock,
	// few enough that a tick over empty ones is nothing.
	shards = 32
	// maxWorkers bounds the goroutines of Run; each ticks on its own.
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
	}
	for i := range w.shards {
		s := &w.shards[i]
		s.worker, s.dueEnd = &w.workers[i%len(w.workers)], &s.due
	}
	return w
}

// Schedule arms t, or moves it when it is armed, to fire when the wall clock
// reads at: at once (with the next tick) when that has passed. The monotonic
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
	} else {
		if s.armed.Add(1) == 1 {
			// The cursor stood still while there was nothing to do.
			s.cursor = tickOf(w.now().UnixNano())
		}
		if s.worker.armed.Add(1) == 1 {
			s.worker.rouse()
		}
	}
	t.at, t.e = nanosOf(at), e
	s.place(t, s.cursor+1)
	s.mu.Unlock()
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
	for i := range w.workers {
		n += w.workers[i].armed.Load()
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

// A worker ticks for every len(workers)-th shard.
type worker struct {
	armed atomic.Int64  // timers in its shards
	wake  chan struct{} // armed went from zero to one
	_     [40]byte      // a cache line each
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
		for k.armed.Load() == 0 {
			select {
			case <-k.wake:
			case <-ctx.Done():
				return
			}
		}
		// Wake at the wall clock's next multiple of a tick: that is when timers
		// become due.
		timer.Reset(tick - time.Duration(uint64(w.now().UnixNano())%uint64(tick)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
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
