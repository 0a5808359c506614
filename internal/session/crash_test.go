package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
)

// crashEnv names the database that this test binary, run again as a child,
// works on until it is killed.
const crashEnv = "WSBOUNCER_TEST_CRASH_DATABASE"

// crashing does the child's work, if this is the child.
func crashing() bool {
	path := os.Getenv(crashEnv)
	if path == "" {
		return false
	}
	if err := victim(path); err != nil {
		fmt.Println("error", err)
	}
	return true
}

func crashService(path string) (*sqlite.Store, *session.Service, error) {
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		return nil, nil, err
	}
	return s, session.New(session.Options{
		Store: s, Audit: s, Issuer: issuer, Audience: "wsbouncer", Sign: sign, RefreshGrace: time.Hour, PerSubject: 1 << 20,
		Accounts: &people{scopes: map[string][]string{"ann": {"chat"}}},
	}), nil
}

// victim begins, refreshes, ends and revokes for ever, and says on its standard
// output what was acknowledged, after it was.
func victim(path string) error {
	_, svc, err := crashService(path)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	ack := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(words...)
	}
	ctx := context.Background()
	failed := make(chan error)
	for worker := range 4 {
		go func() {
			failed <- func() error {
				for i := 0; ; i++ {
					g, err := svc.Begin(ctx, session.Start{Subject: "ann"})
					if err != nil {
						return err
					}
					ack("session", g.SessionID, g.RefreshToken)
					for range 1 + i%5 {
						if g, err = svc.Refresh(ctx, session.RefreshRequest{Token: g.RefreshToken}); err != nil {
							return err
						}
						ack("session", g.SessionID, g.RefreshToken)
					}
					if i%2 == 0 {
						if _, err := svc.End(ctx, g.SessionID, reason.LoggedOut, "ann"); err != nil {
							return err
						}
						ack("ended", g.SessionID, "-")
					}
					jti := fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i)
					res, err := svc.Revoke(ctx, "", "", wsbouncer.Token(jti))
					if err != nil {
						return err
					}
					ack("revoked", jti, res.ID)
				}
			}()
		}()
	}
	return <-failed
}

// What was acknowledged before a kill -9 is there afterwards.
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	path := filepath.Join(t.TempDir(), "db")
	latest, ended, revoked := map[string]string{}, map[string]bool{}, map[string]string{}
	for round := range rounds {
		acknowledged(t, path, 20+rand.IntN(150), latest, ended, revoked)
		s, svc, err := crashService(path)
		if err != nil {
			t.Fatalf("round %d: reopen: %v", round, err)
		}
		check(t, s, svc, latest, ended, revoked)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d sessions, %d ended, %d revocations", len(latest), len(ended), len(revoked))
	if len(latest) == 0 || len(ended) == 0 || len(revoked) == 0 {
		t.Error("the child did too little")
	}
}

// acknowledged runs a child, kills it after so many acknowledgements, and notes
// all that it gave.
func acknowledged(t *testing.T, path string, lines int, latest map[string]string, ended map[string]bool, revoked map[string]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for n := 0; sc.Scan(); n++ {
		f := strings.Fields(sc.Text())
		if len(f) != 3 {
			// The last line of a killed child can be cut short: it was not given.
			if f[0] == "error" {
				t.Errorf("child: %s", sc.Text())
			}
			continue
		}
		switch f[0] {
		case "session":
			latest[f[1]] = f[2]
		case "ended":
			ended[f[1]] = true
		case "revoked":
			revoked[f[1]] = f[2]
		}
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
}

func check(t *testing.T, s *sqlite.Store, svc *session.Service, latest map[string]string, ended map[string]bool, revoked map[string]string) {
	t.Helper()
	rs, err := svc.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	log := map[string]string{}
	for i, r := range rs {
		if r.Seq != int64(i+1) {
			t.Fatalf("entry %d of the log has number %d", i+1, r.Seq)
		}
		log[r.Kind+" "+r.Value] = fmt.Sprint(r.Seq)
	}
	if n, err := s.Sequence(t.Context()); err != nil || n != int64(len(rs)) {
		t.Errorf("the sequence is at %d after %d entries, %v", n, len(rs), err)
	}
	for jti, seq := range revoked {
		if log["token "+jti] != seq {
			t.Errorf("revocation %s of %s is lost", seq, jti)
		}
	}
	begun := map[string]bool{}
	events, err := s.Events(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Type == audit.LoginOK {
			begun[e.Session] = true
		}
	}
	for sid, raw := range latest {
		if !begun[sid] {
			t.Errorf("the beginning of %s was not audited", sid)
		}
		g, err := svc.Refresh(t.Context(), session.RefreshRequest{Token: raw})
		_, inLog := log["session "+sid]
		switch {
		case ended[sid]:
			if !errors.Is(err, session.ErrInvalidGrant) || !inLog {
				t.Errorf("the end of %s is lost: %v", sid, err)
			}
		case err == nil && !inLog:
			latest[sid] = g.RefreshToken
		case inLog && errors.Is(err, session.ErrInvalidGrant):
			ended[sid] = true // done, and killed before it could say so
		default:
			t.Errorf("the latest token of %s is lost: %v", sid, err)
		}
	}
}
