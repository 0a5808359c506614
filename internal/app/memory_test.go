package app

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// DOS-10: the memory of a burst goes back once, soon, and not too often.
func TestDOS10MemoryOfABurstIsGivenBack(t *testing.T) {
	const at = time.Second
	for _, c := range []struct {
		what string
		live map[time.Duration]int64 // from then on
		want []time.Duration         // when memory is given back
	}{
		{"few connections", map[time.Duration]int64{1 * at: memoryBurst - 1, 11 * at: 0}, nil},
		{"a burst", map[time.Duration]int64{1 * at: 9000, 41 * at: 0}, []time.Duration{45 * at}},
		{"a burst that stays", map[time.Duration]int64{1 * at: 9000, 41 * at: 4500}, nil},
		{"half is not yet fewer", map[time.Duration]int64{1 * at: 9000, 41 * at: 4500, 51 * at: 4499}, []time.Duration{55 * at}},
		{"a fall in two steps", map[time.Duration]int64{1 * at: 9000, 41 * at: 4000, 46 * at: 100}, []time.Duration{45 * at, 75 * at}},
		{"what remains is not worth it", map[time.Duration]int64{1 * at: 9000, 41 * at: 900, 46 * at: 0}, []time.Duration{45 * at}},
		{"two bursts at once", map[time.Duration]int64{1 * at: 9000, 41 * at: 0, 46 * at: 9000, 51 * at: 0}, []time.Duration{45 * at, 75 * at}},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var live atomic.Int64
				for from, n := range c.live {
					time.AfterFunc(from, func() { live.Store(n) })
				}
				var got []time.Duration
				m := &memory{live: live.Load, free: func() { got = append(got, time.Since(begin)) }}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				if err := m.run(ctx); err != nil {
					t.Error(err)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("given back after %v, want %v", got, c.want)
				}
			})
		})
	}
}
