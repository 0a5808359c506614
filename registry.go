package wsbouncer

import (
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"
)

// registry is every connection there is, found by id, token, session and
// subject. It is sharded and intrusive: a connection is linked into circular
// lists through its own fields, so that an index costs one map entry.
//
// Locks: a shard's lock may be held while taking a Live's own, never the other
// way round, and never two shards' at once. No caller's code runs under either.
type registry struct {
	seed  maphash.Seed
	count atomic.Int64
	ids   [shards]idShard
	by    [indexes][shards]shard

	exchanged exchanged
	waiting   waiting
}

const shards = 64

// The indexes. byCurrent is the token of the latest refresh; the one that
// opened the connection stays in byToken.
const (
	byToken = iota
	bySession
	bySubject
	byCurrent
	indexes
)

type idShard struct {
	mu   sync.RWMutex
	live map[string]*Live
}

type shard struct {
	mu   sync.Mutex
	head map[uint64]*Live // by the hash of issuer and value: compare the values
}

// link is a place in one circular list; prev is nil outside of any.
type link struct{ prev, next *Live }

// enlist puts l at the end of head's list, which is empty when head is nil.
func enlist(head *Live, index int, l *Live) {
	if head == nil {
		l.links[index] = link{l, l}
		return
	}
	tail := head.links[index].prev
	l.links[index] = link{tail, head}
	tail.links[index].next = l
	head.links[index].prev = l
}

// delist takes l out of head's list and returns its head then.
func delist(head *Live, index int, l *Live) *Live {
	at := l.links[index]
	l.links[index] = link{}
	if at.next == l {
		return nil
	}
	at.prev.links[index].next = at.next
	at.next.links[index].prev = at.prev
	if head == l {
		return at.next
	}
	return head
}

func newRegistry() *registry {
	r := &registry{seed: maphash.MakeSeed()}
	for i := range r.ids {
		r.ids[i].live = map[string]*Live{}
	}
	for k := range r.by {
		for i := range r.by[k] {
			r.by[k][i].head = map[uint64]*Live{}
		}
	}
	return r
}

func (r *registry) hash(n name) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	_, _ = h.WriteString(n.issuer)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(n.value)
	return h.Sum64()
}

func (r *registry) id(cid string) *idShard { return &r.ids[maphash.String(r.seed, cid)%shards] }

func (r *registry) len() int { return int(r.count.Load()) }

// addID registers l by its id; false when the id is taken.
func (r *registry) addID(l *Live) bool {
	s := r.id(l.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.live[l.id]; taken {
		return false
	}
	s.live[l.id] = l
	return true
}

func (r *registry) removeID(l *Live) {
	s := r.id(l.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[l.id] == l {
		delete(s.live, l.id)
	}
}

func (r *registry) lookup(cid string) *Live {
	s := r.id(cid)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.live[cid]
}

// all yields every connection, a shard at a time, without a lock held.
func (r *registry) all() iter.Seq[*Live] {
	return func(yield func(*Live) bool) {
		var some []*Live
		for i := range r.ids {
			s := &r.ids[i]
			some = some[:0]
			s.mu.RLock()
			for _, l := range s.live {
				some = append(some, l)
			}
			s.mu.RUnlock()
			for _, l := range some {
				if !yield(l) {
					return
				}
			}
		}
	}
}

// add links l into an index under n; an empty value is in no index. full, when
// given, is asked under the lock with the list's head (nil: none) and may
// refuse.
func (r *registry) add(index int, l *Live, n name, full func(head *Live) bool) bool {
	if n.value == "" {
		return true
	}
	h := r.hash(n)
	s := &r.by[index][h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	head := s.head[h]
	if full != nil && full(head) {
		return false
	}
	if head == nil {
		s.head[h] = l
	}
	enlist(head, index, l)
	return true
}

func (r *registry) remove(index int, l *Live, n name) {
	if n.value == "" {
		return
	}
	h := r.hash(n)
	s := &r.by[index][h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.links[index].prev == nil {
		return
	}
	if head := delist(s.head[h], index, l); head != nil {
		s.head[h] = head
	} else {
		delete(s.head, h)
	}
}

// each calls fn, which must be short, for every connection listed under n's
// hash. It runs under the list's lock: fn compares the names itself.
func (r *registry) each(index int, n name, fn func(*Live)) {
	h := r.hash(n)
	s := &r.by[index][h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	listed(s.head[h], index, fn)
}

func listed(head *Live, index int, fn func(*Live)) {
	if head == nil {
		return
	}
	for l := head; ; {
		next := l.links[index].next
		fn(l)
		if next == head {
			return
		}
		l = next
	}
}
