package limit

import "sync"

// Count counts what is live for each key (connections of a subject, of an
// address) and keeps each count at or below a maximum. Keys at zero take no
// memory, so the table is bounded by what is live. Safe for concurrent use.
type Count[K comparable] struct {
	max int

	mu   sync.Mutex
	live map[K]int
}

// NewCount makes a table; max at or below zero counts without refusing.
func NewCount[K comparable](max int) *Count[K] {
	return &Count[K]{max: max, live: make(map[K]int)}
}

// Acquire takes one of k's places and reports whether there was one. Each true
// needs one Release.
func (c *Count[K]) Acquire(k K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.live[k]
	if c.max > 0 && n >= c.max {
		return false
	}
	c.live[k] = n + 1
	return true
}

// Release gives a place of k back. One too many does nothing.
func (c *Count[K]) Release(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.live[k]; n > 1 {
		c.live[k] = n - 1
	} else {
		delete(c.live, k)
	}
}

// Len is how many of k's places are taken.
func (c *Count[K]) Len(k K) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live[k]
}
