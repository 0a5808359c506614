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
)

// Limited writes at most so many lines a second of each kind, then one line with
// the number it suppressed: a flood of refusals must fill neither the disk nor
// the operator's view. Safe for concurrent use.
type Limited struct {
	log  *slog.Logger
	max  int
	wake chan struct{} // something was suppressed

	mu    sync.Mutex
	kinds map[string]*kind
}

type kind struct {
	since      time.Time // the window began
	lines      int
	suppressed int
	level      slog.Level // the gravest that was suppressed
}

// NewLimited writes to log at most perSecond lines of a kind, at least one.
func NewLimited(log *slog.Logger, perSecond int) *Limited {
	return &Limited{log: log, max: max(perSecond, 1), wake: make(chan struct{}, 1), kinds: map[string]*kind{}}
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
		l.log.LogAttrs(ctx, level, msg, attrs...)
	}
}

func (l *Limited) count(name string, level slog.Level, now time.Time) (write bool, before int, beforeLevel slog.Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[name]
	if k == nil {
		if len(l.kinds) >= maxKinds {
			name = otherKind
		}
		if k = l.kinds[name]; k == nil {
			k = &kind{since: now}
			l.kinds[name] = k
		}
	}
	if d := now.Sub(k.since); d >= window || d < 0 {
		before, beforeLevel = k.suppressed, k.level
		*k = kind{since: now}
	}
	if k.lines < l.max {
		k.lines++
		return true, before, beforeLevel
	}
	if k.suppressed == 0 || level > k.level {
		k.level = level
	}
	k.suppressed++
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return false, before, beforeLevel
}

func (l *Limited) report(name string, level slog.Level, n int) {
	l.log.LogAttrs(context.Background(), level, "similar lines were suppressed", slog.String("kind", name), slog.Int("suppressed", n))
}

// Run reports, within two seconds, what was suppressed when no more lines of a
// kind come; until ctx ends, with a last report then. The error is nil.
func (l *Limited) Run(ctx context.Context) error {
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			l.flush()
			return nil
		}
		select {
		case <-time.After(window):
		case <-ctx.Done():
		}
		l.flush()
	}
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
