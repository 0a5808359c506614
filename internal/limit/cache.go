package limit

import "sync"

// Cache is a map that forgets its longest unused entry when it is full. Safe
// for concurrent use; values are shared, so treat them as immutable.
type Cache[K comparable, V any] struct {
	mu    sync.Mutex
	table *lru[K, V]
}

// NewCache makes a cache of at most max entries, at least one.
func NewCache[K comparable, V any](max int) *Cache[K, V] {
	return &Cache[K, V]{table: newLRU[K, V](max)}
}

// Get finds k's value.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.table.get(k); e != nil {
		return e.value, true
	}
	return v, false
}

// Put sets k's value.
func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.table.get(k); e != nil {
		e.value = v
		return
	}
	c.table.add(k, v)
}

// Delete forgets k.
func (c *Cache[K, V]) Delete(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.remove(k)
}

// Clear forgets everything.
func (c *Cache[K, V]) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.clear()
}

// Len is the number of entries.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.table.entries)
}
