package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxKinds bounds the kinds that are counted apart; kinds are names in the
	// program, so more is a mistake, and they share one count.
	maxKinds  = 256
	otherKind = "other"
	window    = time.Second
	// waiting bounds the lines that wait to be written.
	waiting = 1024
)

// Limited writes at most so many lines a second of each kind, then one line with
// the number it suppressed: a flood of refusals must fill neither the disk nor
// the operator's view. Safe for concurrent use.
//
// While Run runs, it writes: whoever has something to tell, such as that it ended
// connections, does not wait for a log that is read slowly. Lines for which there
// is no room count as suppressed.
type Limited struct {
	log   *slog.Logger
	max   int
	wake  chan struct{} // something was suppressed
	lines chan slog.Record

	mu      sync.Mutex
	kinds   map[string]*kind
	running bool
}

type kind struct {
	since      time.Time // the window began
	lines      int
	suppressed int
	level      slog.Level // the gravest that was suppressed
}

// NewLimited writes to log at most perSecond lines of a kind, at least one.
func NewLimited(log *slog.Logger, perSecond int) *Limited {
	return &Limited{log: log, max: max(perSecond, 1), wake: make(chan struct{}, 1), lines: make(chan slog.Record, waiting), kinds: map[string]*kind{}}
}

// Log writes a line of a kind, or counts it. Kinds come from the program, never
// from a stranger.
func (l *Limited) Log(ctx context.Context, level slog.Level, kindName, msg string, attrs ...slog.Attr) {
	if !l.log.Enabled(ctx, level) {
		return
	}
	write, before, beforeLevel := l.count(kindName, level, time.Now())
	if before > 0 {
		l.report(kindName, beforeLevel, before)
	}
	if write {
		r := slog.NewRecord(time.Now(), level, msg, 0)
		r.AddAttrs(attrs...)
		if !l.queue(r) {
			l.suppress(kindName, level, 1)
		}
	}
}

// queue gives a line to Run, or writes it where there is none. It reports whether
// there was room.
func (l *Limited) queue(r slog.Record) bool {
	l.mu.Lock()
	if l.running {
		defer l.mu.Unlock()
		select {
		case l.lines <- r:
			return true
		default:
			return false
		}
	}
	l.mu.Unlock()
	l.write(r)
	return true
}

func (l *Limited) write(r slog.Record) { _ = l.log.Handler().Handle(context.Background(), r) }

// suppress counts n lines that were not written.
func (l *Limited) suppress(name string, level slog.Level, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kind(name, time.Now())
	k.suppress(level, n)
	l.rouse()
}

func (k *kind) suppress(level slog.Level, n int) {
	if k.suppressed == 0 || level > k.level {
		k.level = level
	}
	k.suppressed += n
}

func (l *Limited) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// kind is the count of a kind. The lock is held.
func (l *Limited) kind(name string, now time.Time) *kind {
	if k := l.kinds[name]; k != nil {
		return k
	}
	if len(l.kinds) >= maxKinds {
		name = otherKind
	}
	k := l.kinds[name]
	if k == nil {
		k = &kind{since: now}
		l.kinds[name] = k
	}
	return k
}

func (l *Limited) count(name string, level slog.Level, now time.Time) (write bool, before int, beforeLevel slog.Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kind(name, now)
	if d := now.Sub(k.since); d >= window || d < 0 {
		before, beforeLevel = k.suppressed, k.level
		*k = kind{since: now}
	}
	if k.lines < l.max {
		k.lines++
		return true, before, beforeLevel
	}
	k.suppress(level, 1)
	l.rouse()
	return false, before, beforeLevel
}

func (l *Limited) report(name string, level slog.Level, n int) {
	r := slog.NewRecord(time.Now(), level, "similar lines were suppressed", 0)
	r.AddAttrs(slog.String("kind", name), slog.Int("suppressed", n))
	if !l.queue(r) {
		l.suppress(name, level, n)
	}
}

// Run writes, and reports within two seconds what was suppressed when no more
// lines of a kind come; until ctx ends, with all that is left then. The error is
// nil.
func (l *Limited) Run(ctx context.Context) error {
	l.run(true)
	var flush <-chan time.Time
	for {
		select {
		case r := <-l.lines:
			l.write(r)
		case <-l.wake:
			if flush == nil {
				flush = time.After(window)
			}
		case <-flush:
			flush = nil
			l.flush()
		case <-ctx.Done():
			l.run(false)
			for len(l.lines) > 0 { // nobody adds any more
				l.write(<-l.lines)
			}
			l.flush()
			return nil
		}
	}
}

func (l *Limited) run(on bool) {
	l.mu.Lock()
	l.running = on
	l.mu.Unlock()
}

// flush reports every kind that suppressed lines.
func (l *Limited) flush() {
	type report struct {
		name string
		kind
	}
	var reports []report
	l.mu.Lock()
	for name, k := range l.kinds {
		if k.suppressed > 0 {
			reports = append(reports, report{name, *k})
			k.suppressed = 0
		}
	}
	l.mu.Unlock()
	for _, r := range reports {
		l.report(r.name, r.level, r.suppressed)
	}
}
