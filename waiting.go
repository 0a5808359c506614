package wsbouncer

import (
	"net/netip"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// waiting is the queue of connections that wait for their first message,
// oldest first. They are linked through byCurrent, which they do not use yet.
type waiting struct {
	mu    sync.Mutex
	head  *Live
	n     int
	perIP map[netip.Prefix]int
}

// waitedEnough is how long a connection has its place for sure when others
// want it.
const waitedEnough = time.Second

// enter gives l a place. With all places taken the oldest that waited enough
// makes room: it is returned, marked as ended, for the caller to tell.
func (w *waiting) enter(l *Live, ip netip.Prefix, total, perIP int, now time.Time, why Reason) (evicted *Live, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if perIP >= 0 && w.perIP[ip] >= perIP {
		return nil, false
	}
	if w.n >= total {
		oldest := w.head
		if oldest == nil || now.Sub(oldest.Started()) < waitedEnough {
			return nil, false
		}
		w.unlink(oldest)
		if oldest.mark(why) {
			evicted = oldest
		}
	}
	if w.perIP == nil {
		w.perIP = map[netip.Prefix]int{}
	}
	w.perIP[ip]++
	w.n++
	l.waits = true
	enlist(w.head, byCurrent, l)
	if w.head == nil {
		w.head = l
	}
	return evicted, true
}

// leave gives l's place back, if it still has one.
func (w *waiting) leave(l *Live) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(l)
}

func (w *waiting) unlink(l *Live) {
	if !l.waits {
		return
	}
	l.waits = false
	w.head = delist(w.head, byCurrent, l)
	w.n--
	ip := limit.IPKey(l.ip)
	if w.perIP[ip]--; w.perIP[ip] <= 0 {
		delete(w.perIP, ip)
	}
}
