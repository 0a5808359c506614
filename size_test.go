package wsbouncer

import (
	"testing"
	"unsafe"
)

// The allocator's next size is 352 bytes.
func TestALiveIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Live{}); size > 320 {
		t.Errorf("a Live is %d bytes: is the new field needed by every connection?", size)
	}
}
