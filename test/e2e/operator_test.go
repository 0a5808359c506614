package e2e_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "modernc.org/sqlite" // the data folder's database, read as a thief would
)

// Helpers for what an operator has at hand: the admin socket, the commands with
// stdout and stderr apart, the data folder; and for clients of other addresses.

// commands is the program for its commands. They come and go by the hundred, and
// the race detector makes each start cost as much as all that it does.
var commands = sync.OnceValue(func() string {
	if !raceEnabled {
		return binary
	}
	plain := binary + "-commands" // TestMain removes the folder
	build := exec.Command("go", "build", "-o", plain, "github.com/wsbouncer/wsbouncer/cmd/wsbouncer")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the program under test: %v\n%s", err, out))
	}
	return plain
})

// adminCall speaks to the admin socket.
func (s *server) adminCall(method, path string, body any) *answer {
	s.t.Helper()
	var rd io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		rd = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://admin"+path, rd)
	if err != nil {
		s.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.admin)
		},
	}}
	res, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		s.t.Fatal(err)
	}
	_ = json.Unmarshal(a.body, &a.json)
	return a
}

// tool is what a command printed.
type tool struct {
	stdout, stderr string
	code           int
}

// json decodes what a command printed with --json.
func (r tool) json(t testing.TB, v any) {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), v); err != nil {
		t.Fatalf("not JSON: %v: %q", err, r.stdout)
	}
}

// tool runs a command in the server's folder.
func (s *server) tool(stdin string, args ...string) tool {
	s.t.Helper()
	return runTool(s.t, s.dir, stdin, args...)
}

// runTool runs a command in a folder, with the wsbouncer.yaml there.
func runTool(t testing.TB, dir, stdin string, args ...string) tool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, commands(), args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "WSBOUNCER_CONFIG="+filepath.Join(dir, "wsbouncer.yaml"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(errs.String(), "panic:") {
		t.Errorf("wsbouncer %q:\n%s", args, errs.String())
	}
	return tool{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// database opens the database of the data folder.
func (s *server) database(mode string) *sql.DB {
	s.t.Helper()
	file := url.URL{Scheme: "file", Path: filepath.Join(s.dir, "data", "wsbouncer.db"), RawQuery: "mode=" + mode + "&_pragma=busy_timeout(5000)"}
	db, err := sql.Open("sqlite", file.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { db.Close() })
	return db
}

// clientFrom is an HTTP client whose connections come from another address of
// this machine.
func clientFrom(t testing.TB, ip string) *http.Client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{Timeout: 3 * patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: d.DialContext}}
}

// loginFrom logs in by a client of clientFrom.
func (s *server) loginFrom(c *http.Client, name, password string, lines ...string) (*answer, error) {
	raw, err := json.Marshal(map[string]string{"username": name, "password": password})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.url+"/auth/login", bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Add(name, value)
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	_ = json.Unmarshal(a.body, &a.json)
	for _, name := range []string{"access_token", "refresh_token"} {
		secret(s.t, a.str(name))
	}
	return a, nil
}

// tryLogin logs in with any password, and demands nothing.
func (s *server) tryLogin(name, password string, lines ...string) *answer {
	s.t.Helper()
	return s.call("POST", "/auth/login", map[string]any{"username": name, "password": password}, lines...)
}

// events are the audit events of a type, newest first.
func (s *server) events(kind string) []map[string]any {
	s.t.Helper()
	a := s.adminCall("GET", "/v1/audit?limit=1000", nil)
	items, _ := a.json["items"].([]any)
	var out []map[string]any
	for _, it := range items {
		if e, ok := it.(map[string]any); ok && e["type"] == kind {
			out = append(out, e)
		}
	}
	return out
}
