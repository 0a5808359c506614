package limit

// lru is a bounded map with its keys in order of use. Not safe for concurrent
// use: its owner locks.
type lru[K comparable, V any] struct {
	max     int
	entries map[K]*entry[K, V]
	root    entry[K, V] // root.next is the latest used, root.prev the longest unused
}

type entry[K comparable, V any] struct {
	prev, next *entry[K, V]
	key        K
	value      V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	if max < 1 {
		panic("limit: a table needs room for at least one entry")
	}
	l := &lru[K, V]{max: max}
	l.clear()
	return l
}

func (l *lru[K, V]) clear() {
	l.entries = make(map[K]*entry[K, V])
	l.root.next, l.root.prev = &l.root, &l.root
}

// get finds k and makes it the latest used; nil when absent.
func (l *lru[K, V]) get(k K) *entry[K, V] {
	e := l.entries[k]
	if e != nil && l.root.next != e {
		e.unlink()
		l.front(e)
	}
	return e
}

// add puts the absent k in. A full table gives up its longest unused entry,
// whose value is returned.
func (l *lru[K, V]) add(k K, v V) (e *entry[K, V], lost V, evicted bool) {
	if len(l.entries) >= l.max {
		// The entry is used again: a full table allocates no more.
		e = l.root.prev
		lost, evicted = e.value, true
		delete(l.entries, e.key)
		e.unlink()
	} else {
		e = new(entry[K, V])
	}
	e.key, e.value = k, v
	l.entries[k] = e
	l.front(e)
	return e, lost, evicted
}

func (l *lru[K, V]) remove(k K) {
	if e := l.entries[k]; e != nil {
		delete(l.entries, k)
		e.unlink()
	}
}

func (l *lru[K, V]) front(e *entry[K, V]) {
	e.prev, e.next = &l.root, l.root.next
	e.prev.next, e.next.prev = e, e
}

func (e *entry[K, V]) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}
