package gateway

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// refresher speaks with the client over the connection itself: it takes new
// tokens, and says once for each when most of its life is over.
type refresher struct {
	wheel *wheel.Wheel
	live  *wsbouncer.Live
	// refreshes: the route has in_band_refresh. auth: the token could have come
	// in a first message, and another credential was let in; a client that sends
	// both has its message taken as a refresh, since it must not reach the upstream.
	refreshes, auth bool

	mu    sync.Mutex
	conn  *relay.Conn
	over  bool
	due   time.Time // the deadline that is warned of
	timer wheel.Timer
}

const (
	// warnAt is the part of a token's life, in tenths, after which the client
	// is told.
	warnAt = 8
	// refreshTimeout bounds one refresh.
	refreshTimeout = 5 * time.Second
)

// newRefresher is nil where nothing is said to the gateway on this connection.
func newRefresher(h *handshake, live *wsbouncer.Live) *refresher {
	first := h.rt.firstMessage()
	if !h.rt.InBandRefresh && !first {
		return nil
	}
	return &refresher{wheel: h.g.wheel, live: live, refreshes: h.rt.InBandRefresh, auth: first && !h.answered}
}

// hears reports whether a message of this kind brings a token.
func (f *refresher) hears(kind string) bool {
	return kind == "refresh" && f.refreshes || kind == "auth" && f.auth
}

func (f *refresher) start(c *relay.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn = c
	f.schedule(time.Now())
}

func (f *refresher) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.wheel.Stop(&f.timer)
}

// schedule arms the warning of the deadline in force, unless it is armed or was
// given already: of one deadline there is one warning.
func (f *refresher) schedule(now time.Time) {
	at := f.live.ExpiresAt()
	if !f.refreshes || f.over || at.Equal(f.due) {
		return
	}
	f.due = at
	f.wheel.Schedule(&f.timer, now.Add(at.Sub(now)*warnAt/10), f)
}

// Expire implements wheel.Expirer: most of the token's life is over.
func (f *refresher) Expire(_ *wheel.Timer, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.live.ExpiresAt()
	switch {
	case f.over || f.conn == nil || now.After(at):
	case !at.Equal(f.due): // extended over HTTP meanwhile
		f.schedule(now)
	default:
		f.conn.Notify(says("expiring", at))
	}
}

// message handles a client's message to us. The relay calls it for one
// connection at a time, at most once a second.
func (f *refresher) message(_ *relay.Conn, message []byte) []byte {
	var m struct {
		Kind  string `json:"wsbouncer"`
		Token string `json:"token"`
	}
	o := jsonscan.Options{MaxDepth: 2, MaxBytes: len(message), MaxMembers: 2, FoldKeys: true}
	if jsonscan.Decode(message, o, &m) != nil || m.Token == "" || !f.hears(m.Kind) {
		return complains("invalid_request")
	}
	ctx, cancel := context.WithTimeout(context.Background(), refreshTimeout)
	defer cancel()
	expires, err := f.live.Refresh(ctx, m.Token)
	if err != nil {
		var ref *wsbouncer.Refusal
		if errors.As(err, &ref) {
			return complains(ref.Code)
		}
		return complains(reason.NotReady.Code)
	}
	f.mu.Lock()
	f.schedule(time.Now())
	f.mu.Unlock()
	return says("ok", expires)
}

func says(what string, expires time.Time) []byte {
	b := append([]byte(`{"wsbouncer":"`), what...)
	b = append(b, `","expires_at":`...)
	return append(strconv.AppendInt(b, expires.Unix(), 10), '}')
}

// complains takes codes of our own alone: nothing in them needs escaping.
func complains(code string) []byte {
	return append(append([]byte(`{"wsbouncer":"error","code":"`), code...), `"}`...)
}
