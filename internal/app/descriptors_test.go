package app

import "testing"

// The reserve follows the limit, and where no limit is known none is kept.
func TestDescriptorReserve(t *testing.T) {
	for limit, reserve := range map[int]int{0: 0, 64: 16, 256: 32, 1024: 51, 20000: 512, 1 << 30: 512} {
		d := withLimit(limit)
		if d.reserve != reserve {
			t.Errorf("of %d: %d, want %d", limit, d.reserve, reserve)
		}
		if used := d.used(); used == 0 || d.room() != (limit == 0 || used < limit-reserve) {
			t.Errorf("of %d, %d used: room %v", limit, used, d.room())
		}
	}
	if n := newDescriptors().limit; n == 0 {
		t.Error("no limit is known here")
	}
}
