package app

import (
	"context"
	"runtime/debug"
	"time"
)

// When memory is given back. Left alone, the runtime keeps what a burst of
// connections needed for minutes, and what it holds nobody else can use.
const (
	memoryLook  = 5 * time.Second
	memoryRest  = 30 * time.Second // between two: each is a full collection
	memoryBurst = 1000             // a smaller peak is not worth one
)

// memory gives the system back what a burst of connections needed, once they
// are fewer than half.
type memory struct {
	live func() int64
	free func()

	peak int64
	last time.Time // of free
}

func (a *App) newMemory() *memory { return &memory{live: a.watch.live, free: debug.FreeOSMemory} }

func (m *memory) run(ctx context.Context) error {
	tick := time.NewTicker(memoryLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if m.due(m.live(), now) {
				m.free()
			}
		}
	}
}

// due notes how many connections live now, and decides. What remains begins the
// next peak, so that a slow fall frees in steps.
func (m *memory) due(live int64, now time.Time) bool {
	m.peak = max(m.peak, live)
	if m.peak < memoryBurst || live >= m.peak/2 || now.Sub(m.last) < memoryRest {
		return false
	}
	m.peak, m.last = live, now
	return true
}
