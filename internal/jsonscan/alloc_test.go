//go:build !race

// The race detector empties pools at random.

package jsonscan_test

import (
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

func TestNothingIsAllocated(t *testing.T) {
	doc := []byte(message)
	o := jsonscan.Options{FoldKeys: true}
	_ = jsonscan.Valid(doc, o)
	ps, err := jsonscan.ParsePointers("/exp", "/sub")
	if err != nil {
		t.Fatal(err)
	}
	values := make([][]byte, ps.Len())
	for name, f := range map[string]func(){
		"Lookup": func() { _ = ps.Lookup(doc, o, values) },
		"Valid":  func() { _ = jsonscan.Valid(doc, o) },
		"Find":   func() { _, _, _ = jsonscan.Find(doc, o, "exp") },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
