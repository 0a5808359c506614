package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// crashYAML has a grace: a client whose answer a crash swallowed asks again.
const crashYAML = `
issuer: {access_ttl: 10m, refresh_grace: 60s, sessions_per_subject: 1000}
limits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM"}
`

// attempt is a call to a server that may die meanwhile. ok is true when the
// whole answer came and was a 200.
func attempt(c *http.Client, target, contentType string, body []byte, token string) (out map[string]any, ok bool) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, false
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, false
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(raw, &out) != nil {
		return nil, false
	}
	return out, true
}

// A client's answer is a promise: what was acknowledged holds after a power cut
// in the middle of everything.
func TestKilledInTheMiddleNothingAcknowledgedIsLost(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+crashYAML, iss.trusted)
	s.addUser("ann", "chat")
	api := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	admin := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(s.dir, "data", "admin.sock"))
		},
	}}
	type dead struct{ access, refresh string }
	var gone []dead      // every session whose end was acknowledged, in all rounds
	var revoked []string // every foreign token whose revocation was acknowledged
	for round := range 4 {
		var logins []*answer
		for range 9 {
			logins = append(logins, s.login("ann"))
		}
		var (
			mu    sync.Mutex
			acks  int
			last  = map[string]string{} // session → its newest acknowledged refresh token
			enemy = make(chan struct{})
			work  sync.WaitGroup
		)
		acked := func(note func()) {
			mu.Lock()
			defer mu.Unlock()
			note()
			if acks++; acks == 12+7*round {
				close(enemy)
			}
		}
		for _, in := range logins[:3] {
			last[in.str("session_id")] = in.str("refresh_token")
			work.Go(func() {
				for current := in.str("refresh_token"); ; {
					form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {current}}
					out, ok := attempt(api, s.url+"/auth/token", "application/x-www-form-urlencoded", []byte(form.Encode()), "")
					if !ok {
						return
					}
					current, _ = out["refresh_token"].(string)
					secret(t, current)
					acked(func() { last[in.str("session_id")] = current })
				}
			})
		}
		work.Go(func() {
			for i, in := range logins[3:] {
				var ok bool
				if i%2 == 0 {
					_, ok = attempt(api, s.url+"/auth/logout", "", nil, in.str("access_token"))
				} else {
					_, ok = attempt(api, s.url+"/auth/revoke", "application/x-www-form-urlencoded", []byte("token="+in.str("refresh_token")), "")
				}
				if !ok {
					return
				}
				acked(func() { gone = append(gone, dead{in.str("access_token"), in.str("refresh_token")}) })
			}
		})
		for w := range 2 {
			work.Go(func() {
				for i := 0; ; i++ {
					sub := fmt.Sprintf("sub-%d-%d-%d", round, w, i)
					token := iss.token(claims{"sub": sub})
					what := map[string]string{"kind": "subject", "issuer": iss.name, "value": sub}
					if i%2 == 1 {
						what = map[string]string{"kind": "token", "value": token}
					}
					body, _ := json.Marshal(what)
					if _, ok := attempt(admin, "http://admin/v1/revocations", "application/json", body, ""); !ok {
						return
					}
					acked(func() { revoked = append(revoked, token) })
				}
			})
		}
		<-enemy
		s.kill()
		work.Wait()
		if _, err := os.Stat(filepath.Join(s.dir, "data", "admin.sock")); err != nil {
			t.Errorf("the kill left no socket, so this shows nothing: %v", err)
		}
		if !s.run() {
			t.Fatalf("it did not start after the kill:\n%s", s.log)
		}
		if a := s.adminCall("GET", "/v1/status", nil); a.json["ready"] != true {
			t.Errorf("the admin socket after a kill: %d %s", a.status, a.body)
		}
		for _, d := range gone {
			s.refused(401, "token_revoked", "/chat", bearer(d.access))
			s.want(s.refresh(d.refresh), 400, "invalid_grant")
		}
		for _, token := range revoked {
			s.refused(401, "token_revoked", "/chat", bearer(token))
		}
		for sid, token := range last {
			a := s.refresh(token)
			if a.status != 200 || a.str("session_id") != sid {
				t.Errorf("round %d: the newest acknowledged refresh token: %d %s", round, a.status, a.body)
				continue
			}
			s.connect("/chat", bearer(a.str("access_token"))).alive()
		}
		t.Logf("round %d: %d acknowledged, %d sessions gone, %d revocations so far", round, acks, len(gone), len(revoked))
	}
	if len(gone) == 0 || len(revoked) == 0 {
		t.Error("nothing was acknowledged, so nothing was shown")
	}
	s.connect("/chat", bearer(iss.token())).alive()
}

func TestOneProcessPerDataFolder(t *testing.T) {
	s := start(t, newUpstream(t, nil), crashYAML)
	s.addUser("ann", "")
	config, err := os.ReadFile(filepath.Join(s.dir, "wsbouncer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	second := s.file("second.yaml", strings.Replace(string(config), s.addr, freeAddr(t), 1))
	r := s.tool("", "serve", "--config", second)
	if line := strings.TrimSpace(r.stderr); r.code != 1 || !strings.Contains(line, "in use") || !strings.Contains(line, filepath.Join(s.dir, "data")) || strings.Contains(line, "\n") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	// The first goes on, and keeps its socket.
	s.connect("/chat", bearer(s.login("ann").str("access_token"))).alive()
	s.cli("status")
}

// A database that is damaged must not pass for an empty one: revocations would
// be forgotten.
func TestADamagedDatabaseDoesNotStart(t *testing.T) {
	s := start(t, newUpstream(t, nil), crashYAML)
	s.addUser("ann", "")
	in := s.login("ann")
	s.want(s.call("POST", "/auth/logout", nil, bearer(in.str("access_token"))), 200, "")
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	db := filepath.Join(s.dir, "data", "wsbouncer.db")
	good, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	garbage := bytes.Repeat([]byte("garbage\n"), len(good)/8)
	for what, content := range map[string][]byte{
		"garbage":              garbage,
		"half of it":           good[:len(good)/2],
		"a piece of a page":    good[:100],
		"nothing":              {},
		"garbage after a page": append(bytes.Clone(good[:4096]), garbage[4096:]...),
		"absent":               nil,
	} {
		if content == nil {
			err = os.Remove(db)
		} else {
			err = os.WriteFile(db, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if s.run() {
			t.Errorf("%s: it started", what)
			s.stop()
			continue
		}
		log := strings.TrimSpace(s.log.String())
		if s.code != 1 || !strings.Contains(log, "wsbouncer.db") || strings.Contains(log, "\n") {
			t.Errorf("%s: exit code %d: %s", what, s.code, log)
		}
	}
	for _, name := range []string{db + "-wal", db + "-shm"} {
		_ = os.Remove(name)
	}
	if err := os.WriteFile(db, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if !s.run() {
		t.Fatalf("it did not start with the good one:\n%s", s.log)
	}
	s.refused(401, "token_revoked", "/chat", bearer(in.str("access_token")))
}
