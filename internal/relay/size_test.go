package relay

import (
	"testing"
	"unsafe"
)

// The allocator's next size is 704 bytes.
func TestAConnIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Conn{}); size > 640 {
		t.Errorf("a Conn is %d bytes: is the new field needed by every idle connection?", size)
	}
}
