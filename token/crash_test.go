package token_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

const crashPath = "WSBOUNCER_TEST_RING"

func crashOptions(path string) token.RingOptions {
	return token.RingOptions{Path: path, Algorithm: "EdDSA", Overlap: time.Hour}
}

// TestRingCrashChild is the process that is killed: it changes the ring without
// end and says each thing once it has been acknowledged to it.
func TestRingCrashChild(t *testing.T) {
	path := os.Getenv(crashPath)
	if path == "" {
		return // it runs as a child of TestRingSurvivesKill
	}
	r, err := token.OpenRing(crashOptions(path))
	if err != nil {
		t.Fatal(err)
	}
	for {
		fmt.Println("signed", mustSign(t, r))
		if _, err := r.Rotate(time.Now()); err != nil {
			t.Fatal(err)
		}
		fmt.Println("active", r.List()[0].ID)
		if rand.IntN(3) == 0 {
			id := r.List()[rand.IntN(2)].ID
			fmt.Println("revoking", id)
			if err := r.Revoke(id, time.Now()); err != nil {
				t.Fatal(err)
			}
			fmt.Println("revoked", id)
		}
	}
}

// Killed anywhere, the ring opens again with everything that was acknowledged.
func TestRingSurvivesKill(t *testing.T) {
	path := ringOptions(t).Path
	var signed []string
	gone, perhaps := map[string]bool{}, map[string]bool{}
	for round := range 12 {
		active := killed(t, path, 1+rand.IntN(40), func(word, rest string) {
			switch word {
			case "signed":
				signed = append(signed, rest)
			case "revoking":
				perhaps[rest] = true
			case "revoked":
				gone[rest] = true
			}
		})
		r, err := token.OpenRing(crashOptions(path))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		v := ownVerifier(t, r, "EdDSA")
		for id := range gone {
			if keys, _ := r.Keys(id); keys != nil || strings.Contains(string(r.JWKS()), id) {
				t.Fatalf("round %d: revoked key %s is back", round, id)
			}
		}
		for _, raw := range signed {
			header, _, err := token.Inspect(raw)
			if err != nil {
				t.Fatal(err)
			}
			_, err = v.Verify(context.Background(), raw)
			id := strings.Split(strings.Split(string(header), `"kid":"`)[1], `"`)[0]
			switch {
			case gone[id] && err == nil:
				t.Fatalf("round %d: a token of a revoked key verifies", round)
			case !gone[id] && !perhaps[id] && err != nil:
				t.Fatalf("round %d: a token of key %s is lost: %v", round, id, err)
			}
		}
		if keys, _ := r.Keys(active); active != "" && keys == nil && !perhaps[active] {
			t.Fatalf("round %d: key %s, which signed, is lost", round, active)
		}
	}
	if len(gone) == 0 || len(signed) < 20 {
		t.Errorf("too little happened: %d revoked, %d signed", len(gone), len(signed))
	}
}

// killed runs the child until it has said so many lines, kills it, and returns
// the last key it said was active.
func killed(t *testing.T, path string, lines int, heard func(word, rest string)) (active string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestRingCrashChild$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), crashPath+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	scanner := bufio.NewScanner(out)
	for n := 0; scanner.Scan(); n++ {
		word, rest, ok := strings.Cut(scanner.Text(), " ")
		// What was said before the kill has happened, however late it is read.
		if ok && (word == "signed" || word == "active" || word == "revoking" || word == "revoked") {
			heard(word, rest)
			if word == "active" {
				active = rest
			}
		} else {
			t.Errorf("the child says %q", scanner.Text())
		}
		if n == lines {
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Error(err)
			}
		}
	}
	_ = cmd.Wait() // killed, on purpose
	return active
}
