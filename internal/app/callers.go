package app

import (
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// callers bounds the connections of one address that are no WebSockets (yet):
// those that say nothing, or stay after a request. The library counts what has
// sent a handshake; these cost a descriptor and a goroutine before that.
// Trusted proxies speak for many and are not counted.
type callers struct {
	peers *httpx.Peers
	held  *limit.Count[netip.Prefix]

	mu   sync.Mutex
	from map[net.Conn]netip.Prefix // those that hold a place
}

func newCallers(peers *httpx.Peers, most int) *callers {
	return &callers{peers: peers, held: limit.NewCount[netip.Prefix](most), from: map[net.Conn]netip.Prefix{}}
}

// enter asks for a place for a connection from addr, and leave gives it back.
func (s *callers) enter(addr netip.Addr) bool {
	addr = s.peers.Calls(addr)
	return !addr.IsValid() || s.held.Acquire(limit.IPKey(addr))
}

func (s *callers) leave(addr netip.Addr) {
	if addr = s.peers.Calls(addr); addr.IsValid() {
		s.held.Release(limit.IPKey(addr))
	}
}

// state is the server's ConnState. A connection that is one too many is closed
// before a byte of it is read.
func (s *callers) state(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		addr := s.peers.Caller(c.RemoteAddr().String())
		if !addr.IsValid() {
			return
		}
		key := limit.IPKey(addr)
		if !s.held.Acquire(key) {
			_ = c.Close()
			return
		}
		s.mu.Lock()
		s.from[c] = key
		s.mu.Unlock()
	case http.StateHijacked, http.StateClosed:
		s.mu.Lock()
		key, holds := s.from[c]
		delete(s.from, c)
		s.mu.Unlock()
		if holds {
			s.held.Release(key)
		}
	}
}
