package wsbouncer

import (
	"sync"
	"time"
)

// revokedSet is everything revoked that can still matter. New handshakes ask
// it; it only ever grows by what was recorded, and forgets what has expired.
type revokedSet struct {
	mu       sync.RWMutex
	tokens   map[name]time.Time // → when it can be forgotten; zero: never
	sessions map[name]time.Time
	keys     map[name]time.Time
	subjects map[name]subjectEntry
	before   map[string]time.Time // by issuer: the latest moment
	pruned   time.Time
}

type subjectEntry struct {
	cutoff
	expires time.Time
}

// pruneEvery is how often, at most, expired entries are looked for.
const pruneEvery = time.Minute

func newRevokedSet() *revokedSet {
	return &revokedSet{
		tokens: map[name]time.Time{}, sessions: map[name]time.Time{}, keys: map[name]time.Time{},
		subjects: map[name]subjectEntry{}, before: map[string]time.Time{},
	}
}

func (s *revokedSet) add(r *Revocation, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := name{r.Issuer, r.Value}
	switch r.Kind {
	case kindToken:
		keep(s.tokens, n, r.Expires)
	case kindSession:
		keep(s.sessions, n, r.Expires)
	case kindKey:
		keep(s.keys, n, r.Expires)
	case kindSubject:
		e, was := s.subjects[n]
		c := soFar(r)
		e.seq = max(e.seq, c.seq)
		e.at = later(e.at, c.at)
		e.unnumbered = later(e.unnumbered, c.unnumbered)
		if !was {
			e.expires = r.Expires
		} else {
			e.expires = laterOrNever(e.expires, r.Expires)
		}
		s.subjects[n] = e
	case kindBefore:
		s.before[r.Issuer] = later(s.before[r.Issuer], r.At)
	}
	s.prune(now)
}

// has reports whether a token is revoked.
func (s *revokedSet) has(b *bound) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if in(s.tokens, b.issuer, b.token) || in(s.sessions, b.issuer, b.session) || in(s.keys, b.issuer, b.key) {
		return true
	}
	if len(s.subjects) > 0 && b.subject != "" {
		if e, ok := s.subjects[name{b.issuer, b.subject}]; ok && e.hits(&b.mark) {
			return true
		}
	}
	t, ok := s.before[b.issuer]
	return ok && issuedBefore(&b.mark, t)
}

func in(m map[name]time.Time, issuer, value string) bool {
	if len(m) == 0 || value == "" {
		return false
	}
	_, ok := m[name{issuer, value}]
	return ok
}

func keep(m map[name]time.Time, n name, expires time.Time) {
	if was, ok := m[n]; ok {
		expires = laterOrNever(was, expires)
	}
	m[n] = expires
}

func (s *revokedSet) prune(now time.Time) {
	if now.Sub(s.pruned) < pruneEvery {
		return
	}
	s.pruned = now
	over := func(t time.Time) bool { return !t.IsZero() && t.Before(now) }
	for _, m := range []map[name]time.Time{s.tokens, s.sessions, s.keys} {
		for n, expires := range m {
			if over(expires) {
				delete(m, n)
			}
		}
	}
	for n, e := range s.subjects {
		if over(e.expires) {
			delete(s.subjects, n)
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// laterOrNever is later where zero is never.
func laterOrNever(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return time.Time{}
	}
	return later(a, b)
}
