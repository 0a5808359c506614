package app

import (
	"context"
	"runtime/debug"
	"time"
)

// When memory is given back. Left alone, the runtime keeps what a burst of
// connections needed for minutes, and what it holds nobody else can use.
const (
	memoryLook  = time.Second
	memoryRest  = 30 * time.Second // between two: each is a full collection
	memoryBurst = 1000             // a smaller one is not worth one
	memoryQuiet = 100              // more new connections in a look: it goes on
)

// memory gives the system back what a burst of connections needed: what their
// handshakes left, once no more come, and all of it, once they are fewer than
// half.
type memory struct {
	live func() int64
	free func()

	seen      int64     // by the last look
	low, peak int64     // since the last free
	last      time.Time // of free
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
// next peak, so that a slow fall frees in steps. A rise counts from a quarter: the
// more there are, the more a collection costs.
func (m *memory) due(live int64, now time.Time) bool {
	quiet := live-m.seen < memoryQuiet
	m.seen, m.low, m.peak = live, min(m.low, live), max(m.peak, live)
	risen := quiet && live-m.low >= max(memoryBurst, m.low/4)
	fallen := m.peak >= memoryBurst && live < m.peak/2
	if !risen && !fallen || now.Sub(m.last) < memoryRest {
		return false
	}
	m.low, m.peak, m.last = live, live, now
	return true
}
