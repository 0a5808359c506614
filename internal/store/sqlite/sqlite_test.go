package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
	"github.com/wsbouncer/wsbouncer/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, filepath.Join(t.TempDir(), "db")) })
}

func TestFilesAreForTheOwnerAlone(t *testing.T) {
	// A name that means something in a URI is a name all the same.
	dir := filepath.Join(t.TempDir(), "a b?c#d%20e")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "db?mode=memory")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if err := s.InsertAccount(t.Context(), account.Record{Name: "ann"}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("files: %v, %v; want the database, its log and its index", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode().Perm())
		}
	}
}

func TestReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.InsertAccount(t.Context(), account.Record{Name: "ann"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Account(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// All is in the one file, for whoever copies it while nobody uses it.
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("after Close: %v, %v", files, err)
	}
	if _, err := open(t, path).Account(t.Context(), "ann"); err != nil {
		t.Error(err)
	}
}

func TestALossIsNoFirstStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for range 2 { // the refusal makes nothing that would do next time
		if s, err := sqlite.OpenExisting(t.Context(), path); err == nil {
			t.Fatal("opened an empty database", s.Close())
		}
	}
	for _, open := range []func(context.Context, string) (*sqlite.Store, error){sqlite.Open, sqlite.OpenExisting} {
		s, err := open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusesAFileThatIsNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "not a database") {
		t.Errorf("opened: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 15000 {
		t.Errorf("the file was changed: %d bytes, %v", len(b), err)
	}
}

func TestAContextOutlivesNoTransaction(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	var kept context.Context
	if err := s.Tx(t.Context(), func(ctx context.Context) error { kept = ctx; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertAccount(kept, account.Record{Name: "ann"}); err == nil {
		t.Error("wrote in a transaction that was over")
	}
	if _, err := s.Account(kept, "ann"); err == nil {
		t.Error("read in a transaction that was over")
	}
}

// Strangers' events never push out the others.
func TestAuditIsBounded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	ctx := t.Context()
	err := s.Tx(ctx, func(ctx context.Context) error {
		for i := range 60 {
			typ := audit.LoginFailed
			if i%6 == 0 {
				typ = audit.LoginOK
			}
			if err := s.Write(ctx, audit.Event{Type: typ}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, stranger := range []bool{true, false} {
		if err := s.Trim(ctx, stranger, 20); err != nil {
			t.Fatal(err)
		}
	}
	es, err := s.Events(ctx, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	ok, failed := 0, 0
	for _, e := range es {
		if e.Type == audit.LoginOK {
			ok++
		} else {
			failed++
		}
	}
	if ok != 10 || failed != 20 || es[len(es)-1].ID != 60 {
		t.Errorf("%d logins and %d failures are kept, the last is %d; want 10, the newest 20, and 60", ok, failed, es[len(es)-1].ID)
	}
}

// Whoever comes after Close is told so, and does not wait.
func TestClosed(t *testing.T) {
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertAccount(t.Context(), account.Record{Name: "ann"}); err == nil {
		t.Error("wrote after Close")
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready after Close")
	}
}
