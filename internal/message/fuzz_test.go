package message_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/message"
)

// FuzzReaders: whatever comes, nothing panics, what goes on is what came and in
// its order, names are not empty, and a denial can be made.
func FuzzReaders(f *testing.F) {
	for i, s := range []string{
		`{"type":"send","room":"x"}`, `[{"jsonrpc":"2.0","id":1,"method":"a"}]`,
		`{"id":"1","type":"subscribe","payload":{"query":"query A($x:[T!]=1){a(s:\"\"\"x\"\"\"){b}...F} fragment F on T{c}","operationName":"A"}}`,
		string(slices.Concat(connect5, publish5("a", 1, alias(1)), publish5("", 2, alias(1)), subscribe311("a/+"))),
		"CONNECT\n\n\x00\nSEND\ndestination:/a\\c\ncontent-length:1\n\n\x00\x00", `451-/admin,12["up",{"_placeholder":true,"num":0}]`,
	} {
		f.Add(uint8(i), false, uint8(7), []byte(s))
	}
	f.Fuzz(func(t *testing.T, format uint8, upstream bool, size uint8, all []byte) {
		name := message.Formats[int(format)%len(message.Formats)]
		r, up := readers(t, name)
		if upstream {
			if name == "mqtt" {
				_, _ = r.Read(true, connect5)
			}
			r = up
		}
		if name != "mqtt" && name != "stomp" {
			size = 0 // a message is whole
		}
		var out []byte
		for piece := range slices.Chunk(all, max(1, choose(int(size), len(all)))) {
			units, err := r.Read(r.Binary(), bytes.Clone(piece))
			if err != nil {
				break
			}
			for _, u := range units {
				out = append(out, u.Raw...)
				for _, a := range u.Actions {
					if a.Name == "" && name != "json" && name != "jsonrpc" && name != "socketio" {
						t.Fatalf("an action without a name in %q", u.Raw)
					}
				}
				_, _ = u.Denial("not_allowed")
			}
		}
		if !bytes.HasPrefix(all, out) {
			t.Fatalf("%q goes on as %q", all, out)
		}
	})
}

func choose(size, whole int) int {
	if size == 0 {
		return whole
	}
	return size
}
