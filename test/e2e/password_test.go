package e2e_test

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
)

// patientYAML lets a test fail to log in as often as it likes.
const patientYAML = `
issuer: {}
limits: {logins: {per_ip: {rate: 100000/m, burst: 100000}, per_account: {rate: 100000/m, burst: 100000}}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`

func (s *server) addAccount(name, password string) *answer {
	s.t.Helper()
	secret(s.t, password)
	return s.adminCall("POST", "/v1/users", map[string]any{"name": name, "password": password, "scopes": []string{"chat"}})
}

func TestPWD01WhichPasswordsAreTaken(t *testing.T) {
	s := start(t, newUpstream(t, nil), "login: {password: {blocklist: blocked.txt}}\n"+patientYAML, func(s *server) {
		s.file("blocked.txt", "correct horse battery staple\nviolet umbrella tangent 88\n")
	})
	const words = "drizzle quartz lantern mosaic gravel tundra walnut pickle saffron bramble "
	for _, c := range []struct{ name, password, rule string }{
		{"fourteen", "qv8#zW1m!xT6rb", "password_too_short"},
		{"fourteencharacters", strings.Repeat("é", 7) + "ßøæåðþñ", "password_too_short"}, // 14 of them, 28 bytes
		{"common", "passwordpassword", "password_common"},
		{"commonplus", "iloveyou123456789", "password_common"},
		{"blocked", "Violet Umbrella Tangent 88", "password_common"},
		{"blockedplus", "correct horse battery staple2!", "password_common"},
		{"alexandrapetrova", "AlexandraPetrova1!", "password_context"},
		{"product", "wsbouncer-wsbouncer-1", "password_context"},
		{"rows", "aaaaaaaaaaaaaaaaaaaaaaaa", ""},
		{"keyboard", "qwertyuiopasdfghjkl", ""},
		{"huge", strings.Repeat(words, 20), "password_too_long"},
	} {
		if a := s.addAccount(c.name, c.password); a.status != 400 || c.rule != "" && a.code() != c.rule || a.str("detail") == "" {
			t.Errorf("%s: %d %q %q, want 400 %q and a detail", c.name, a.status, a.code(), a.str("detail"), c.rule)
		}
	}
	for name, p := range map[string]string{
		"fifteen":     "qv8#zW1m!xT6rbK",
		"lowercase":   "gravel mosaic tundra",
		"spaces":      "  leading and trailing gravel  ",
		"emoji":       "🦔 quartz 🌋 drizzle 🪁 lantern",
		"sixtyfour":   words[:64],
		"twohundred":  strings.Repeat(words, 3)[:200],
		"punctuation": `'"; DROP TABLE accounts; --<&>\`,
	} {
		if a := s.addAccount(name, p); a.status != 200 && a.status != 201 {
			t.Errorf("%s: refused: %d %s", name, a.status, a.body)
			continue
		}
		s.want(s.tryLogin(name, p), 200, "")
	}
	// Nothing is cut off: bcrypt, for one, would see 72 bytes.
	base := strings.Repeat(words, 2)[:72]
	if a := s.addAccount("long", base+"first"); a.status > 201 {
		t.Fatal(a.status, string(a.body))
	}
	s.want(s.tryLogin("long", base+"other"), 401, "login_failed")
	s.want(s.tryLogin("long", base), 401, "login_failed")
	s.want(s.tryLogin("long", base+"first"), 200, "")
	// The same text typed on a system that composes its letters otherwise.
	s.addAccount("composed", "cr\u00e8me br\u00fbl\u00e9e quartz")
	s.want(s.tryLogin("composed", "cre\u0300me bru\u0302le\u0301e quartz"), 200, "")
	// The reason is told to whoever chooses, too.
	in := s.tryLogin("fifteen", "qv8#zW1m!xT6rbK")
	a := s.call("POST", "/auth/password", map[string]any{"current_password": "qv8#zW1m!xT6rbK", "new_password": "passwordpassword"}, bearer(in.str("access_token")))
	if s.want(a, 400, "password_refused"); !strings.Contains(a.str("detail"), "guessed") {
		t.Errorf("the reason: %q", a.str("detail"))
	}
}

var strongHash = regexp.MustCompile(`^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$`)

func TestPWD03HowPasswordsAreStored(t *testing.T) {
	s := start(t, newUpstream(t, nil), patientYAML)
	s.addUser("ann", "chat")
	s.addUser("bob", "chat")
	hashOf := func(db *sql.DB, name string) (h string) {
		t.Helper()
		if err := db.QueryRow(`SELECT hash FROM accounts WHERE name = ?`, name).Scan(&h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	db := s.database("ro")
	ann, bob := hashOf(db, "ann"), hashOf(db, "bob")
	if !strongHash.MatchString(ann) || !strongHash.MatchString(bob) {
		t.Errorf("stored: %q and %q", ann, bob)
	}
	if strings.Split(ann, "$")[4] == strings.Split(bob, "$")[4] {
		t.Error("two accounts share a salt")
	}
	db.Close()

	// What a login leaves behind is worth nothing to whoever reads the files.
	in := s.login("ann")
	s.ticket(in.str("access_token"), "/chat")
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		for _, sec := range secretsOf(t) {
			if bytes.Contains(content, []byte(sec)) {
				t.Errorf("the secret %.12s… is in %s", sec, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	// A weaker hash, as another program would have made it, is made anew by a login.
	salt := []byte("0123456789abcdef")
	weak := argon2.IDKey([]byte(password(t, "ann")), salt, 1, 4096, 1, 32)
	b64 := base64.RawStdEncoding
	db = s.database("rw")
	phc := "$argon2id$v=19$m=4096,t=1,p=1$" + b64.EncodeToString(salt) + "$" + b64.EncodeToString(weak)
	if _, err := db.Exec(`UPDATE accounts SET hash = ? WHERE name = 'ann'`, phc); err != nil {
		t.Fatal(err)
	}
	// No password fits a hash that cannot be read, and none an empty one.
	if _, err := db.Exec(`UPDATE accounts SET hash = '' WHERE name = 'bob'`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if !s.run() {
		t.Fatalf("it did not start again:\n%s", s.log)
	}
	s.want(s.tryLogin("ann", "wrong "+password(t, "ann")), 401, "login_failed")
	s.login("ann")
	for _, p := range []string{"", password(t, "bob")} {
		s.want(s.tryLogin("bob", p), 401, "login_failed")
	}
	db = s.database("ro")
	if h := hashOf(db, "ann"); !strongHash.MatchString(h) || h == ann {
		t.Errorf("after the login: %q", h)
	}
	if h := hashOf(db, "bob"); h != "" {
		t.Errorf("an empty hash became %q", h)
	}
	s.login("ann") // the new one fits as well
}

func TestPWD04UnknownUserAndWrongPasswordLookTheSame(t *testing.T) {
	s := start(t, newUpstream(t, nil), patientYAML)
	s.addUser("ann", "chat")
	s.addUser("eve", "chat")
	s.cli("user", "disable", "eve")
	shape := func(a *answer) string {
		h := a.header.Clone()
		h.Del("Date")
		return fmt.Sprintf("%d %v %s", a.status, h, a.body)
	}
	want := shape(s.want(s.tryLogin("ann", "wrong but long enough"), 401, "login_failed"))
	for _, c := range [][2]string{
		{"nobody", "wrong but long enough"}, {"eve", password(t, "eve")}, {"", "wrong but long enough"}, {"", ""}, {"nobody", ""}, {"ann", ""},
		{"ann\x00", "x"}, {strings.Repeat("a", 300), "x"}, {"two words", "x"}, {"ann", strings.Repeat("x", 2000)}, {"'; --", "x"},
	} {
		if got := shape(s.tryLogin(c[0], c[1])); got != want {
			t.Errorf("%.20q, %.20q:\n%s\nwant\n%s", c[0], c[1], got, want)
		}
	}
	// An unknown name costs a hash: it takes far longer than a refusal that
	// needs none, and about as long as a wrong password. Bounds are wide, for
	// the machine has other things to do.
	took := func(name, password string) time.Duration {
		begin := time.Now()
		s.tryLogin(name, password)
		return time.Since(begin)
	}
	var none, unknown, wrong []time.Duration
	for i := range 9 {
		none = append(none, took("ann", "")) // no account has it
		unknown = append(unknown, took(fmt.Sprintf("nobody%d", i), "wrong but long enough"))
		wrong = append(wrong, took("ann", "wrong but long enough"))
	}
	median := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	n, u, w := median(none), median(unknown), median(wrong)
	t.Logf("no hash %v, unknown %v, wrong %v", n, u, w)
	if u < 2*n || u < w/2 || w < u/2 {
		t.Errorf("an unknown name takes %v, a wrong password %v, a refusal without a hash %v", u, w, n)
	}
}

const throttleYAML = `
issuer: {}
limits: {logins: {per_ip: {rate: 100000/m, burst: 100000}, per_account: {rate: 12/m, burst: 5}}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`

func TestPWD05Throttling(t *testing.T) {
	t.Parallel() // it waits for a clock
	s := start(t, newUpstream(t, nil), throttleYAML)
	s.addUser("zoë", "chat")
	// Every way to write the name is the same account, whatever address the
	// client claims.
	variants := []string{"zoë", "ZOË", "Zoe\u0308", "ｚｏë", "zOË", "ZOE\u0308", "\uff3a\uff2f\u00cb"}
	claims := []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}
	failed, throttled := 0, (*answer)(nil)
	for i := 0; i < 60 && throttled == nil; i++ {
		ip := fmt.Sprintf("198.51.100.%d", i)
		if claims[i%len(claims)] == "Forwarded" {
			ip = "for=" + ip
		}
		switch a := s.tryLogin(variants[i%len(variants)], fmt.Sprintf("guess number %d of many", i), claims[i%len(claims)]+": "+ip); a.status {
		case 401:
			failed++
		case 429:
			throttled = a
		default:
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if throttled == nil || throttled.code() != "login_throttled" || failed < 5 {
		t.Fatalf("after %d failures: %+v", failed, throttled)
	}
	wait, err := time.ParseDuration(throttled.header.Get("Retry-After") + "s")
	if err != nil || wait < time.Second || wait > 10*time.Second {
		t.Errorf("Retry-After %q", throttled.header.Get("Retry-After"))
	}
	// No look at the password: whoever guesses right now learns nothing.
	right := s.tryLogin("zoë", password(t, "zoë"), "X-Forwarded-For: 203.0.113.9")
	s.want(right, 429, "login_throttled")
	// Others' guesses do not keep the true user out: from elsewhere at once,
	elsewhere, err := s.loginFrom(clientFrom(t, "127.0.0.2"), "ZOE\u0308", password(t, "zoë"))
	if err != nil {
		t.Fatal(err)
	}
	s.want(elsewhere, 200, "")
	// … from the same address after a while,
	eventually(t, "the delay to pass", func() bool { return s.tryLogin("zoë", password(t, "zoë")).status == 200 })
	// … and other accounts of that address not at all.
	s.want(s.tryLogin("nobody", "x"), 401, "login_failed")
	if len(s.events("login_throttled")) == 0 || len(s.events("login_failed")) < 5 {
		t.Error("the audit trail does not tell")
	}
	for _, e := range s.events("login_failed") {
		if ip := e["ip"]; ip != "127.0.0.1" {
			t.Errorf("the audit trail believes %v", ip)
		}
	}
}

func TestPWD05ManyNamesFromOneAddress(t *testing.T) {
	s := start(t, newUpstream(t, nil), chatYAML) // the default: 10 a minute
	throttled := 0
	for i := range 15 {
		a := s.tryLogin(fmt.Sprintf("name%d", i), "wrong but long enough", fmt.Sprintf("X-Forwarded-For: 198.51.100.%d", i))
		if a.status == 429 {
			throttled++
		}
	}
	if throttled == 0 {
		t.Error("fifteen names, one password: never throttled")
	}
}

func TestPWD06NoDefaultAccountAndChanging(t *testing.T) {
	s := start(t, newUpstream(t, nil), patientYAML)
	for _, c := range [][2]string{
		{"admin", "admin"}, {"admin", "password"}, {"root", "root"}, {"wsbouncer", "wsbouncer"}, {"ann", "ann"}, {"demo", "demo"}, {"admin", ""},
	} {
		s.want(s.tryLogin(c[0], c[1]), 401, "login_failed")
	}
	var list struct{ Items []any }
	s.adminCall("GET", "/v1/users", nil).decode(t, &list)
	if len(list.Items) != 0 {
		t.Errorf("a fresh installation has the accounts %v", list.Items)
	}

	s.addUser("ann", "chat")
	in, other := s.login("ann"), s.login("ann")
	mine := s.connect("/chat", bearer(in.str("access_token"))).alive()
	theirs := s.connect("/chat", bearer(other.str("access_token"))).alive()
	fresh := secret(t, "gravel mosaic tundra 9")
	change := func(current any) *answer {
		body := map[string]any{"new_password": fresh}
		if current != nil {
			body["current_password"] = current
		}
		return s.call("POST", "/auth/password", body, bearer(in.str("access_token")))
	}
	s.want(change(nil), 403, "wrong_password")
	s.want(change(""), 403, "wrong_password")
	s.want(change("not the current password"), 403, "wrong_password")
	s.want(s.call("POST", "/auth/password", map[string]any{"current_password": password(t, "ann"), "new_password": fresh}), 401, "token_missing")
	s.want(s.tryLogin("ann", fresh), 401, "login_failed")
	theirs.alive()
	if a := change(password(t, "ann")); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	theirs.closes(3000, "session_revoked")
	mine.alive()
	s.want(s.refresh(other.str("refresh_token")), 400, "invalid_grant")
	s.want(s.refresh(in.str("refresh_token")), 200, "")
	s.want(s.tryLogin("ann", password(t, "ann")), 401, "login_failed")
	s.want(s.tryLogin("ann", fresh), 200, "")

	// A megabyte is refused as soon as it is announced, or has come too far.
	head := "POST /auth/login HTTP/1.1\r\nHost: " + s.addr + "\r\nContent-Type: application/json\r\n"
	start := `{"username":"ann","password":"`
	s.want(s.raw().send(head+"Content-Length: 1048576\r\n\r\n"+start).response(), 413, "body_too_large")
	part := strings.Repeat("x", 20<<10)
	begin := time.Now()
	s.want(s.raw().send(head+fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s%s\r\n", len(start)+len(part), start, part)).response(), 413, "body_too_large")
	if took := time.Since(begin); took > 5*time.Second { // the whole request may take 10s
		t.Errorf("the answer waited %v for the rest", took)
	}
}

// decode reads a JSON answer that must be a 200.
func (a *answer) decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil || a.status != 200 {
		t.Fatalf("%d %s (%v)", a.status, a.body, err)
	}
}

// DOS-09: a flood of logins, each of which costs a hash, has a queue with a bound;
// open sockets go on, and their messages still come within a fraction of a second.
func TestDOS09LoginFlood(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, patientYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	var live []*client
	for range 3 {
		live = append(live, s.connect("/chat", bearer(in.str("access_token"))).alive())
	}
	before := s.resident()
	quiet := delays(live, nil, 200)

	const addresses, each = 100, 5
	var (
		flood    sync.WaitGroup
		mu       sync.Mutex
		statuses = map[int]int{}
		bad      []string
	)
	for a := range addresses {
		c := clientFrom(t, fmt.Sprintf("127.0.1.%d", a+1))
		for i := range each {
			flood.Go(func() {
				res, err := s.loginFrom(c, fmt.Sprintf("name%d-%d", a, i), "wrong but long enough")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					bad = append(bad, err.Error())
				case (res.status == 503 || res.status == 429) && res.header.Get("Retry-After") == "":
					bad = append(bad, fmt.Sprintf("%d without Retry-After", res.status))
				default:
					statuses[res.status]++
				}
			})
		}
	}
	over := make(chan struct{})
	go func() { flood.Wait(); close(over) }()
	var most int64
	var busy []time.Duration
	for flooding := true; flooding; {
		busy = append(busy, delays(live, over, 10)...) // sockets that are open go on
		most = max(most, s.resident())
		select {
		case <-over:
			flooding = false
		default:
		}
	}
	t.Logf("answers %v, memory %d MiB before, %d MiB at most; messages took %s, and %s before", statuses, before>>20, most>>20, spread(busy), spread(quiet))
	if p := percentile(busy, 99); p > time.Second {
		t.Errorf("1 of 100 messages took more than %v", p)
	}
	if len(bad) > 0 {
		t.Errorf("%d failed, the first: %s", len(bad), bad[0])
	}
	for status := range statuses {
		if status != http.StatusUnauthorized && status != http.StatusServiceUnavailable && status != http.StatusTooManyRequests {
			t.Errorf("%d logins were answered %d", statuses[status], status)
		}
	}
	if statuses[401] == 0 || statuses[503]+statuses[429] == 0 {
		t.Errorf("the queue has no bound, or lets nobody in: %v", statuses)
	}
	// 500 hashes at once would take 9.3 GiB.
	bound := int64(300 << 20)
	if raceEnabled {
		bound *= 3
	}
	if most-before > bound {
		t.Errorf("a flood of logins took %d MiB", (most-before)>>20)
	}
	s.login("ann")
}
