package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// binary is the program under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "wsbouncer-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "wsbouncer")
		args := []string{"build", "-o", binary}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "github.com/wsbouncer/wsbouncer/cmd/wsbouncer")...)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the program under test:", err)
			return 1
		}
		return m.Run()
	}())
}

// server is one running wsbouncer and the folder it runs in.
type server struct {
	t      *testing.T
	dir    string // holds wsbouncer.yaml and data
	addr   string // host:port
	url    string // http(s)://host:port, which is its public_url and only origin
	admin  string // the socket
	nofile int    // ulimit -n it runs under; 0: this process's
	cmd    *exec.Cmd
	log    *logBuffer
	exited chan struct{} // closed when the process is gone; then code is set
	code   int
}

// start writes a configuration and runs it until the end of the test. In yaml,
// ADDR stands for the listener's address and UPSTREAM for up's; listen and data
// are added. When the test ends the program must exit 0, without a data race,
// and without any of the test's secrets in its log.
func start(t *testing.T, up *upstream, yaml string, before ...func(*server)) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	if up != nil {
		yaml = strings.ReplaceAll(yaml, "UPSTREAM", up.addr)
	}
	for _, f := range before {
		f(s)
	}
	for tries := 0; ; tries++ { // somebody else may take the port first
		s.addr = freeAddr(t)
		s.url = "http://" + s.addr
		s.writeConfig(yaml)
		if s.run() {
			break
		}
		if tries == 5 || !strings.Contains(s.log.String(), "cannot listen") {
			t.Fatalf("it did not start:\n%s", s.log)
		}
	}
	t.Cleanup(func() {
		if s.stop() != 0 {
			t.Errorf("exit code %d:\n%s", s.code, s.log)
		}
		s.checkLog()
	})
	return s
}

// writeConfig replaces the configuration; reload or restart takes it.
func (s *server) writeConfig(yaml string) {
	s.t.Helper()
	if !strings.Contains(yaml, "drain: ") {
		yaml = "drain: 0s\n" + yaml
	}
	text := fmt.Sprintf("listen: %s\ndata: %s\n", s.addr, filepath.Join(s.dir, "data")) + strings.ReplaceAll(yaml, "ADDR", s.addr)
	s.file("wsbouncer.yaml", text)
}

// file writes a file beside the configuration.
func (s *server) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// run starts the process and reports whether it became ready.
func (s *server) run() bool {
	s.t.Helper()
	s.log, s.exited = &logBuffer{}, make(chan struct{})
	s.cmd = exec.Command(binary, "serve", "--config", filepath.Join(s.dir, "wsbouncer.yaml"))
	if s.nofile > 0 {
		s.cmd = exec.Command("sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, s.nofile), "sh"}, s.cmd.Args...)...)
	}
	s.cmd.Dir = s.dir
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = w, w
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	ready := make(chan string, 1)
	log, cmd, exited := s.log, s.cmd, s.exited
	go func() {
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadBytes('\n')
			_, _ = log.Write(line)
			var e struct{ Msg, Admin string }
			if json.Unmarshal(line, &e) == nil && e.Msg == "ready" {
				ready <- e.Admin
			}
			if err != nil {
				break
			}
		}
		r.Close()
		_ = cmd.Wait()
		close(exited)
	}()
	select {
	case s.admin = <-ready:
		return true
	case <-exited:
		s.code = cmd.ProcessState.ExitCode()
		return false
	case <-time.After(patience):
		s.t.Fatalf("it is neither ready nor gone:\n%s", s.log)
		return false
	}
}

// stop ends the process as an operator would, and gives its exit code.
func (s *server) stop() int {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	return s.wait()
}

// kill ends it as a power cut would.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	s.wait()
}

func (s *server) wait() int {
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // prints where it hangs
		<-s.exited
		s.t.Errorf("it did not end:\n%s", s.log)
	}
	s.code = s.cmd.ProcessState.ExitCode()
	return s.code
}

// checkLog looks for secrets and data races (LOG-02).
func (s *server) checkLog() {
	log := s.log.String()
	if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		s.t.Errorf("the program's log:\n%s", log)
	}
	for _, secret := range secretsOf(s.t) {
		if strings.Contains(log, secret) {
			s.t.Errorf("the secret %.12s… is in the log", secret)
		}
	}
}

// cli runs a command against this server and wants exit code 0.
func (s *server) cli(args ...string) string {
	s.t.Helper()
	out, code := s.command("", args...)
	if code != 0 {
		s.t.Fatalf("wsbouncer %s: exit code %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

// command runs a command with stdin and gives all it printed and its exit code.
func (s *server) command(stdin string, args ...string) (string, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, commands(), args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "WSBOUNCER_CONFIG="+filepath.Join(s.dir, "wsbouncer.yaml"))
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// addUser makes an account with the password of that name (see password).
func (s *server) addUser(name, scope string) {
	s.t.Helper()
	if out, code := s.command(password(s.t, name)+"\n", "user", "add", name, "--scope", scope, "--password-stdin"); code != 0 {
		s.t.Fatalf("user add: %s", out)
	}
}

// password is good enough for the rules, and the same for every test.
func password(t testing.TB, name string) string {
	return secret(t, "quartz "+name+" lantern 47 drizzle")
}

// waitLog waits until a line of the log holds all of parts.
func (s *server) waitLog(parts ...string) map[string]any {
	s.t.Helper()
	var found map[string]any
	eventually(s.t, fmt.Sprintf("a log line with %q", parts), func() bool {
	lines:
		for line := range strings.Lines(s.log.String()) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue lines
				}
			}
			return json.Unmarshal([]byte(line), &found) == nil
		}
		return false
	})
	return found
}

// descriptors counts the process's open files.
func (s *server) descriptors() int {
	s.t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		skip(s.t, "no /proc here")
	}
	return len(names)
}

// skip skips here and fails in CI, where everything must be there.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// resident is the process's memory in bytes.
func (s *server) resident() int64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		skip(s.t, "no /proc here")
	}
	var total, pages int64
	if _, err := fmt.Sscan(string(b), &total, &pages); err != nil {
		s.t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// eventually waits for what no event tells: counts that settle, files, logs.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// logBuffer is what the program wrote.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*logBuffer)(nil)

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// secrets are what must never stand in a log, by test.
var secrets struct {
	sync.Mutex
	of map[testing.TB][]string
}

// secret notes s as one of the test's secrets.
func secret(t testing.TB, s string) string {
	secrets.Lock()
	defer secrets.Unlock()
	if secrets.of == nil {
		secrets.of = map[testing.TB][]string{}
	}
	if len(s) >= 12 {
		secrets.of[t] = append(secrets.of[t], s)
	}
	return s
}

func secretsOf(t testing.TB) []string {
	secrets.Lock()
	defer secrets.Unlock()
	return secrets.of[t]
}
