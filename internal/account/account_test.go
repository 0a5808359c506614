package account_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = "correct horse battery staple"

var home = netip.MustParseAddr("192.0.2.1")

// house is a Service on a real store with a clock that stands still.
type house struct {
	*account.Service
	store *sqlite.Store

	mu  sync.Mutex
	now time.Time
}

func newHouse(t testing.TB, change ...func(*account.Options)) *house {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := &house{store: s, now: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)}
	o := account.Options{Store: s, Audit: s, Now: func() time.Time {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.now
	}}
	for _, c := range change {
		c(&o)
	}
	h.Service = account.New(o)
	return h
}

func (h *house) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

func (h *house) add(t testing.TB, name string) {
	t.Helper()
	if _, err := h.Add(t.Context(), name, good, []string{"chat"}, "admin"); err != nil {
		t.Fatal(err)
	}
}

func (h *house) login(t *testing.T, name, password string, from netip.Addr) error {
	t.Helper()
	_, err := h.Authenticate(t.Context(), name, password, from)
	return err
}

func wantFailed(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, account.ErrLoginFailed) {
		t.Errorf("got %v, want ErrLoginFailed", err)
	}
}

func throttled(err error) bool {
	var te *account.ThrottledError
	return errors.As(err, &te)
}

func TestPWD04UnknownNamesAndWrongPasswordsAreTheSame(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	for _, c := range []struct{ name, password string }{
		{"ann", "wrong horse battery staple"}, {"ann", ""}, {"ann", strings.ToUpper(good)}, {"ann", good + " "},
		{"nobody", good}, {"", ""}, {"nobody", ""}, {"not a name", good},
		{"ann", strings.Repeat("x", 1<<20)}, {strings.Repeat("a", 1<<20), good}, {"ann\xff", good}, {"ann", "\xff" + good},
	} {
		err := h.login(t, c.name, c.password, netip.AddrFrom4([4]byte{10, 0, 0, byte(len(c.password))}))
		if err == nil || err.Error() != account.ErrLoginFailed.Error() {
			t.Errorf("%.20q with %.20q: %v", c.name, c.password, err)
		}
		h.wait(time.Minute)
	}
	if err := h.login(t, "ann", good, home); err != nil {
		t.Error(err)
	}
}

func TestPWD05NamesAreCanonical(t *testing.T) {
	h := newHouse(t)
	h.add(t, "Zoë.Müller@Example.com")
	for _, same := range []string{"zoë.müller@example.com", "ZOË.MÜLLER@EXAMPLE.COM", "zoe\u0308.mu\u0308ller@example.com", "ｚoë.müller@example.com"} {
		a, err := h.Authenticate(t.Context(), same, good, home)
		if err != nil || a.Subject != "zoë.müller@example.com" {
			t.Errorf("%q: %v, %v", same, a.Subject, err)
		}
		if _, err := h.Add(t.Context(), same, good, nil, ""); !errors.Is(err, account.ErrExists) {
			t.Errorf("%q was added beside it: %v", same, err)
		}
	}
	for _, bad := range []string{"", " ", "a b", "a\x00", "a\u202eb", "-rf", strings.Repeat("ü", 200), "a\xff", "\u200b", "ا1a"} {
		var rule *account.RuleError
		if _, err := h.Add(t.Context(), bad, good, nil, ""); !errors.As(err, &rule) || rule.Rule != "name_invalid" {
			t.Errorf("%q was added: %v", bad, err)
		}
	}
}

func TestPWD05VariantsShareOneThrottle(t *testing.T) {
	h := newHouse(t, func(o *account.Options) { o.PerIP = limit.Rate{PerSecond: 1000, Burst: 1000} })
	h.add(t, "alice")
	names := []string{"alice", "ALICE", "Alice", "ａlice", "aLiCe"}
	failed := 0
	for i := range 101 {
		switch err := h.login(t, names[i%len(names)], "wrong horse battery staple", home); {
		case throttled(err):
		case errors.Is(err, account.ErrLoginFailed):
			failed++
		default:
			t.Fatal(err)
		}
	}
	if failed != 5 {
		t.Errorf("%d passwords were looked at, want 5", failed)
	}
	if err := h.login(t, "alice", good, home); !throttled(err) {
		t.Errorf("the right password told itself apart: %v", err)
	}
	// The victim elsewhere is not kept out, nor others at that address.
	if err := h.login(t, "alice", good, netip.MustParseAddr("198.51.100.7")); err != nil {
		t.Errorf("the victim: %v", err)
	}
	h.add(t, "bob")
	if err := h.login(t, "bob", good, home); err != nil {
		t.Errorf("another account: %v", err)
	}
	// And the delay is one.
	h.wait(13 * time.Second)
	if err := h.login(t, "alice", good, home); err != nil {
		t.Errorf("after the delay: %v", err)
	}
}

func TestPWD05AddressesAreThrottledBy64(t *testing.T) {
	h := newHouse(t)
	failed := 0
	for i := range 20 {
		addr := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(i)})
		if err := h.login(t, "user"+string(rune('a'+i)), good, addr); errors.Is(err, account.ErrLoginFailed) {
			failed++
		} else if !throttled(err) {
			t.Fatal(err)
		}
	}
	if failed != 10 {
		t.Errorf("%d attempts from one /64, want 10", failed)
	}
}

// Guessing at once does not get more attempts than one after the other.
func TestPWD05ThrottleHoldsInParallel(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	var mu sync.Mutex
	failed := 0
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			_, err := h.Authenticate(t.Context(), "ann", "wrong horse battery staple", home)
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, account.ErrLoginFailed) {
				failed++
			} else if !throttled(err) && !errors.Is(err, account.ErrBusy) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if failed > 5 || failed == 0 {
		t.Errorf("%d passwords were looked at, want 1 to 5", failed)
	}
}

func TestPWD05GuessingFromEverywhere(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	if err := h.login(t, "ann", good, home); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i := range 120 {
		// An empty password costs no hash, and counts all the same.
		err := h.login(t, "ann", "", netip.AddrFrom4([4]byte{10, 0, byte(i), 1}))
		if errors.Is(err, account.ErrLoginFailed) {
			failed++
		} else if !throttled(err) {
			t.Fatal(err)
		}
	}
	if failed != 100 {
		t.Errorf("%d attempts from 120 addresses, want 100", failed)
	}
	if err := h.login(t, "ann", good, home); err != nil {
		t.Errorf("the owner, from an address that is known: %v", err)
	}
	elsewhere := netip.MustParseAddr("203.0.113.9")
	if err := h.login(t, "ann", good, elsewhere); !throttled(err) {
		t.Errorf("from a new address: %v", err)
	}
	h.wait(30 * time.Second)
	if err := h.login(t, "ann", good, elsewhere); err != nil {
		t.Errorf("from a new address, later: %v", err)
	}
}

func TestSuccessesAreNotCounted(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	for range 12 {
		if err := h.login(t, "ann", good, home); err != nil {
			t.Fatal(err)
		}
	}
	// Nor do they give back what failures took.
	for range 5 {
		wantFailed(t, h.login(t, "ann", "", home))
	}
	h.add(t, "bob")
	if err := h.login(t, "bob", good, home); err != nil {
		t.Fatal(err)
	}
	if err := h.login(t, "ann", good, home); !throttled(err) {
		t.Errorf("another account's success reset the throttle: %v", err)
	}
}

func TestAFloodOfHashesIsRefused(t *testing.T) {
	h := newHouse(t, func(o *account.Options) { o.HashesInFlight = 1 })
	var mu sync.Mutex
	busy := 0
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 40 {
		wg.Go(func() {
			<-start
			_, err := h.Authenticate(t.Context(), "ann", good, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}))
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, account.ErrBusy) {
				busy++
			} else if !errors.Is(err, account.ErrLoginFailed) {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	if busy == 0 {
		t.Error("40 hashes at once were all waited for")
	}
}

func TestAnAttemptGivenUpIsNotAFailure(t *testing.T) {
	h := newHouse(t, func(o *account.Options) { o.HashesInFlight = 1 })
	h.add(t, "ann")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		_, err := h.Authenticate(ctx, "ann", good, home)
		if errors.Is(err, account.ErrLoginFailed) || throttled(err) {
			t.Fatal(err)
		}
	}
	if err := h.login(t, "ann", good, home); err != nil {
		t.Error(err)
	}
}

func TestDisabled(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	a, err := h.Authenticate(t.Context(), "ann", good, home)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Confirm(t.Context(), a); err != nil {
		t.Error(err)
	}
	if err := h.Disable(t.Context(), "ANN", "admin"); err != nil {
		t.Fatal(err)
	}
	wantFailed(t, h.Confirm(t.Context(), a))
	wantFailed(t, h.login(t, "ann", good, home))
	if _, active, err := h.Grants(t.Context(), "ann"); active || err != nil {
		t.Errorf("active %v, %v", active, err)
	}
	if err := h.Enable(t.Context(), "ann", "admin"); err != nil {
		t.Fatal(err)
	}
	if err := h.login(t, "ann", good, home); err != nil {
		t.Error(err)
	}
	if err := h.Remove(t.Context(), "ann", "admin"); err != nil {
		t.Fatal(err)
	}
	wantFailed(t, h.Confirm(t.Context(), a))
	h.wait(time.Second)
	h.add(t, "ann")
	wantFailed(t, h.Confirm(t.Context(), a)) // another ann
}

func TestChangingThePassword(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	ctx := t.Context()
	a, err := h.Authenticate(ctx, "ann", good, home)
	if err != nil {
		t.Fatal(err)
	}
	const other = "seventeen purple lanterns drifting"
	wantFailed(t, h.ChangePassword(ctx, "ann", "wrong", other, home))
	also := errors.New("also")
	if err := h.ChangePassword(ctx, "ann", good, other, home, func(context.Context) error { return also }); !errors.Is(err, also) {
		t.Error(err)
	}
	if err := h.login(t, "ann", good, home); err != nil {
		t.Errorf("the password changed although its transaction failed: %v", err)
	}
	ran := false
	if err := h.ChangePassword(ctx, "ann", good, other, home, func(context.Context) error { ran = true; return nil }); err != nil || !ran {
		t.Fatal(err, ran)
	}
	wantFailed(t, h.Confirm(ctx, a)) // proved by the old one
	wantFailed(t, h.login(t, "ann", good, home))
	if err := h.login(t, "ann", other, home); err != nil {
		t.Error(err)
	}
	if err := h.SetPassword(ctx, "ann", good, "admin"); err != nil {
		t.Fatal(err)
	}
	if err := h.login(t, "ann", good, home); err != nil {
		t.Error(err)
	}
	if err := h.SetPassword(ctx, "nobody", good, "admin"); !errors.Is(err, account.ErrNotFound) {
		t.Error(err)
	}
}

func TestScopes(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ann")
	a, err := h.Grant(t.Context(), "ann", []string{"wsbouncer:admin", "chat"}, "admin")
	if err != nil || strings.Join(a.Scopes, " ") != "chat wsbouncer:admin" {
		t.Error(a.Scopes, err)
	}
	if a, err = h.Ungrant(t.Context(), "ann", []string{"chat", "other"}, "admin"); err != nil || strings.Join(a.Scopes, " ") != "wsbouncer:admin" {
		t.Error(a.Scopes, err)
	}
	for _, bad := range []string{"", "a b", "a\"", "a\\", "ü", "a\n", strings.Repeat("a", 129)} {
		var rule *account.RuleError
		if _, err := h.Grant(t.Context(), "ann", []string{bad}, "admin"); !errors.As(err, &rule) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	scopes, active, err := h.Grants(t.Context(), "ann")
	if err != nil || !active || len(scopes) != 1 {
		t.Error(scopes, active, err)
	}
	if l, err := h.List(t.Context(), "", 10); err != nil || len(l) != 1 || l[0].Name != "ann" {
		t.Error(l, err)
	}
}
