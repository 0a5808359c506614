package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The README's transcript is what the commands print: every "$ line" of its
// block is run in one shell, and what it prints must be what stands below it.
// An ellipsis (…) there stands for anything within a line, and for any number
// of lines where it stands alone.
func TestReadmeTranscript(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, tool+" is not installed")
		}
	}
	steps := transcript(t, "../../README.md")
	dir := t.TempDir()
	bin := t.TempDir()
	linkSelf(t, bin)
	listen, upstream := freeAddr(t), echoServer(t)
	local := strings.NewReplacer("127.0.0.1:8080", listen, "127.0.0.1:9000", upstream)

	sh := startShell(t, dir, bin)
	for _, s := range steps {
		got := sh.run(t, local.Replace(s.command))
		if strings.HasPrefix(s.command, "wsbouncer init") { // the example's ports may be taken here
			replaceIn(t, filepath.Join(dir, "wsbouncer.yaml"), local)
		}
		if want := local.Replace(s.output); !matches(want, got) {
			t.Fatalf("$ %s\nprinted\n%s\nthe README says\n%s", s.command, got, want)
		}
	}
}

// skip skips here and fails in CI, where everything must be there.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

type step struct{ command, output string }

// transcript is the block after the marker.
func transcript(t *testing.T, file string) []step {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "<!-- transcript: a test runs it -->\n```console\n")
	block, _, ok2 := strings.Cut(rest, "\n```")
	if !ok || !ok2 {
		t.Fatal("the README has no transcript")
	}
	var steps []step
	for line := range strings.Lines(block + "\n") {
		if cmd, ok := strings.CutPrefix(line, "$ "); ok {
			steps = append(steps, step{command: strings.TrimSuffix(cmd, "\n")})
		} else if len(steps) > 0 {
			last := &steps[len(steps)-1]
			if strings.HasSuffix(last.command, "\\") && last.output == "" {
				last.command += "\n" + strings.TrimSuffix(line, "\n")
			} else {
				last.output += line
			}
		}
	}
	if len(steps) < 10 {
		t.Fatalf("only %d steps", len(steps))
	}
	return steps
}

// matches compares, with … standing for anything.
func matches(want, got string) bool {
	pattern := regexp.QuoteMeta(strings.TrimSpace(want))
	pattern = strings.ReplaceAll(pattern, "\n…\n", "\n(?:.*\n)*")
	pattern = strings.ReplaceAll(pattern, "…", ".*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(strings.TrimSpace(got))
}

type shell struct {
	dir string
	in  io.Writer
	out *bufio.Reader
}

func startShell(t *testing.T, dir, bin string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--norc")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "WSBOUNCER_CONFIG=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its background jobs end with it
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		_, _ = io.Copy(io.Discard, r) // until everything that held the pipe has ended
		r.Close()
	})
	return &shell{dir: dir, in: in, out: bufio.NewReader(r)}
}

const endMark = "-- end of output --"

var background = regexp.MustCompile(`>\s*(\S+)( 2>&1)? &$`)

// run is what a command prints. One in the background is waited for until its
// file says that it is ready or connected.
func (s *shell) run(t *testing.T, command string) string {
	t.Helper()
	fmt.Fprintf(s.in, "%s\necho; echo '%s'\n", command, endMark)
	var out strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("$ %s\nthe shell ended: %v\n%s", command, err, out.String())
		}
		if strings.TrimSpace(line) == endMark {
			break
		}
		out.WriteString(line)
	}
	if m := background.FindStringSubmatch(command); m != nil {
		waitFor(t, command, func() bool {
			b, _ := os.ReadFile(filepath.Join(s.dir, m[1]))
			return strings.Contains(string(b), "connected ") || strings.Contains(string(b), `"msg":"ready"`)
		})
		return ""
	}
	return out.String()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited too long for: %s", what)
		case <-tick.C:
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func replaceIn(t *testing.T, file string, r *strings.Replacer) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(r.Replace(string(b))), 0o600); err != nil {
		t.Fatal(err)
	}
}

// echoServer is "your server": it answers each message with who the gateway
// says sent it.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, msg, err := c.Read(context.Background())
			if err != nil {
				return
			}
			if c.Write(context.Background(), kind, fmt.Appendf(nil, "%s: %s", r.Header.Get("X-Wsbouncer-Subject"), msg)) != nil {
				return
			}
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}
