//go:build !race

// The race detector's stacks are other ones.

package relay_test

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// An idle connection keeps two goroutines with small stacks and no buffer. A
// large array in a frame on the way, on a path never taken even, would double
// the stacks of all connections there are.
func TestIdleConnectionsAreSmall(t *testing.T) {
	t.Run("goroutines", func(t *testing.T) { idleIsSmall(t, "tcp-tcp", 6<<10, 5<<10) })
	t.Run("loops", func(t *testing.T) {
		if loops() == nil {
			if runtime.GOOS == "linux" {
				t.Fatal("there are no loops")
			}
			t.Skip("there are none on this system")
		}
		idleIsSmall(t, "epoll-epoll", 512, 3<<10)
	})
}

func idleIsSmall(t *testing.T, kind string, mostStack, mostHeap int64) {
	const n = 400
	measure := func() (stacks, heap uint64) {
		runtime.GC() // shrinks stacks, and the pool's buffers go at the second
		runtime.GC()
		s := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64(), s[1].Value.Uint64()
	}
	newRig(t, kind, nil) // whatever is made once
	stacks, heap := measure()
	rigs := make([]*rig, n)
	for i := range rigs {
		r := newRig(t, kind, nil)
		rigs[i] = r
		// Busy once, so that every path has been taken.
		b := up(frame.Binary, string(make([]byte, 5000)))
		send(t, r.client, b)
		expect(t, r.upstream, b)
		send(t, r.upstream, down(frame.Text, "and back"))
		readFrame(t, r.client)
	}
	moreStacks, moreHeap := measure()
	perStack, perHeap := int64(moreStacks-stacks)/n, int64(moreHeap-heap)/n
	t.Logf("%d bytes of stacks and %d of heap a connection, its two peers in the test included", perStack, perHeap)
	if perStack > mostStack {
		t.Errorf("%d bytes of stacks a connection: what made them grow?", perStack)
	}
	if perHeap > mostHeap {
		t.Errorf("%d bytes of heap a connection: what keeps a buffer?", perHeap)
	}
	runtime.KeepAlive(rigs)
}
