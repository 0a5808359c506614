package token

import (
	"strings"
	"testing"
	"time"
)

// One thumbprint in 64 begins with a hyphen, and would be an option where a
// command takes a key's id.
func TestKeyIDsAreNoOptions(t *testing.T) {
	for range 500 {
		k, err := makeKey("EdDSA", KeyActive, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(k.ID, "-") {
			t.Fatalf("made %s", k.ID)
		}
	}
}
