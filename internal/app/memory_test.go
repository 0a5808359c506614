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
	const at = 500 * time.Millisecond // between two looks
	sec := func(all ...int) (list []time.Duration) {
		for _, n := range all {
			list = append(list, time.Duration(n)*time.Second)
		}
		return list
	}
	slow := map[time.Duration]int64{}
	for i := range int64(60) {
		slow[time.Duration(i)*time.Second+at] = 90 * (i + 1)
	}
	for _, c := range []struct {
		what string
		live map[time.Duration]int64 // from then on
		want []time.Duration         // when memory is given back
	}{
		{"few connections", map[time.Duration]int64{1 * at: memoryBurst - 1, 21 * at: 0}, nil},
		{"a burst, and its end", map[time.Duration]int64{1 * at: 9000, 81 * at: 0}, sec(2, 41)},
		{"a burst that is not over yet", map[time.Duration]int64{1 * at: 3000, 3 * at: 6000, 5 * at: 9000}, sec(4)},
		{"a burst that stays", map[time.Duration]int64{1 * at: 9000, 81 * at: 4500}, sec(2)},
		{"half is not yet fewer", map[time.Duration]int64{1 * at: 9000, 81 * at: 4500, 101 * at: 4499}, sec(2, 51)},
		{"a short burst", map[time.Duration]int64{1 * at: 9000, 11 * at: 0}, sec(2, 32)},
		{"a fall in two steps", map[time.Duration]int64{1 * at: 9000, 81 * at: 4000, 91 * at: 100}, sec(2, 41, 71)},
		{"what remains is not worth it", map[time.Duration]int64{1 * at: 9000, 81 * at: 900, 91 * at: 0}, sec(2, 41)},
		{"two bursts at once", map[time.Duration]int64{1 * at: 9000, 81 * at: 0, 91 * at: 9000, 101 * at: 0}, sec(2, 41, 71)},
		{"some more", map[time.Duration]int64{1 * at: 9000, 81 * at: 11_000}, sec(2)},
		{"a quarter more", map[time.Duration]int64{1 * at: 9000, 81 * at: 11_250}, sec(2, 42)},
		{"a slow rise", slow, sec(12, 42, 72)},
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
