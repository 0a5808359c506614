//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain lets the test start the program, which replaces itself by itself.
func TestMain(m *testing.M) {
	if os.Getenv("WSBOUNCER_BENCH_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// measure runs the program without peers.
func measure(t *testing.T, binary string, args ...string) (report, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"-binary", binary, "-peers", "", "-json", file}, args...)...)
	cmd.Env = append(os.Environ(), "WSBOUNCER_BENCH_MAIN=1")
	out, failed := cmd.CombinedOutput()
	var r report
	if b, err := os.ReadFile(file); err == nil {
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
	}
	return r, string(out), failed
}

func TestTheRealBinaryIsMeasured(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "wsbouncer")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/wsbouncer").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r, out, err := measure(t, binary, "-only", "handshake,storm,revoke", "-rounds", "1", "-handshakes", "20", "-idle", "90")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	figures := map[string]*figure{}
	for _, f := range r.Figures {
		figures[f.Name] = f
	}
	for _, name := range []string{
		"1,000 handshakes, EdDSA, tokens new", "1,000 handshakes, ES256, tokens seen before",
		"90 clients come back at once: cost", "10 of 90 connections revoked: the call takes",
	} {
		if f := figures[name]; f == nil || f.Median["wsbouncer"] <= 0 {
			t.Errorf("%s: %+v", name, f)
		}
		if !strings.Contains(out, "| "+name+" ") {
			t.Errorf("the table has no %q:\n%s", name, out)
		}
	}
	if f := figures["90 clients come back at once: lost"]; f == nil || len(f.Measured["wsbouncer"]) != 1 || f.Median["wsbouncer"] != 0 {
		t.Errorf("lost clients: %+v", f)
	}
	if !strings.Contains(r.Commit, "wsbouncer ") || r.Date.IsZero() {
		t.Errorf("measured what, when? %q, %v", r.Commit, r.Date)
	}
}

func TestWhatCannotBeMeasuredFails(t *testing.T) {
	_, out, err := measure(t, "/bin/false", "-only", "handshake")
	if err == nil || !strings.Contains(out, "NOT MEASURED: wsbouncer: ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A server that lets everybody in must not be compared with.
func TestAServerThatTakesABadTokenIsNotMeasured(t *testing.T) {
	b := &bench{}
	var err error
	if b.l, err = newLoop(); err != nil {
		t.Fatal(err)
	}
	defer b.l.close()
	if b.up, err = newUpstream(); err != nil {
		t.Fatal(err)
	}
	defer b.up.close()
	if b.keys, err = newIssuers(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	err = b.verify(t.Context(), &target{name: "open", checked: map[string]string{"ES256": b.up.addr}})
	if err == nil || !strings.Contains(err.Error(), "let in") {
		t.Errorf("the open server was taken: %v", err)
	}
}

func TestRatiosAreThoseOfTheRounds(t *testing.T) {
	r := report{}
	f := r.figure("cost", "CPU s")
	f.OfPeer = 0.7
	for _, round := range [][2]float64{{1, 2}, {30, 40}, {3, 2}} { // the second was disturbed: 0.5, 0.75, 1.5
		f.add("wsbouncer", round[0])
		f.add("haproxy", round[1])
	}
	if f.settle(); !slices.Equal(f.Ratio, []float64{0.5, 0.75, 1.5}) || *f.Reached {
		t.Errorf("ratio %v, reached %v", f.Ratio, *f.Reached)
	}
	f.OfPeer = 0.8
	if f.settle(); !*f.Reached {
		t.Error("not reached")
	}

	file := filepath.Join(t.TempDir(), "report.json")
	if err := r.json(file); err != nil {
		t.Fatal(err)
	}
	var now, again strings.Builder
	if err := errors.Join(r.table(&now), show(file, &again)); err != nil || now.String() != again.String() || !strings.Contains(now.String(), "| 0.75 (0.50–1.50) | ≤ 0.80 × |") {
		t.Errorf("%v\n%s\n%s", err, &now, &again)
	}
}
