package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const issuer = "https://bench.example"

// gateway is the measured process.
type gateway struct {
	cmd    *exec.Cmd
	dir    string
	addr   string
	admin  string
	binary string
	signer jose.Signer
	tail   chan string
}

const configuration = `listen: %s
data: %s
origins: ["http://bench.example"]
drain: 0s
trust:
  - issuer: ` + issuer + `
    audience: bench
    algorithms: [HS256]
    keys: {secret_file: %s}
    leeway: 0s
routes:
  - path: /echo
    upstream: ws://%s
limits:
  connections_per_ip: 100000
  connections_per_subject: 100000
  handshakes_per_ip: {rate: 1000000/s, burst: 1000000}
  message_rate: {rate: 10000000/s, burst: 10000000}
  byte_rate: {rate: 1GiB/s, burst: 1GiB}
`

func startGateway(ctx context.Context, binary, upstream string) (*gateway, error) {
	dir, err := os.MkdirTemp("", "wsbouncer-bench-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	key := filepath.Join(dir, "secret")
	conf := filepath.Join(dir, "wsbouncer.yaml")
	text := hex.EncodeToString(secret)
	if err := errors.Join(
		os.WriteFile(key, []byte(text), 0o600),
		os.WriteFile(conf, fmt.Appendf(nil, configuration, addr, filepath.Join(dir, "data"), key, upstream), 0o600),
	); err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(text)}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		return nil, err
	}
	g := &gateway{dir: dir, addr: addr, binary: binary, signer: signer, tail: make(chan string, 1)}
	g.cmd = exec.CommandContext(ctx, binary, "serve", "--config", conf)
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	return g, g.waitReady(stderr)
}

func (g *gateway) waitReady(stderr io.Reader) error {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	var all []string
	for lines.Scan() {
		var line struct{ Msg, Admin string }
		_ = json.Unmarshal(lines.Bytes(), &line)
		if line.Msg == "ready" {
			g.admin = line.Admin
			go func() { // ends with the process
				for lines.Scan() {
				}
				g.tail <- ""
			}()
			return nil
		}
		all = append(all, lines.Text())
	}
	_ = g.cmd.Wait()
	return fmt.Errorf("the gateway did not start: %s", strings.Join(all, "\n"))
}

func (g *gateway) stop() error {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	<-g.tail
	err := g.cmd.Wait()
	return errors.Join(err, os.RemoveAll(g.dir))
}

// token is an access token of a trusted issuer.
func (g *gateway) token(subject string, n int, exp time.Time) (string, error) {
	return jwt.Signed(g.signer).Claims(map[string]any{
		"iss": issuer, "aud": "bench", "sub": subject, "sid": subject, "jti": strconv.Itoa(n),
		"iat": time.Now().Unix(), "exp": exp.Unix(), "client_id": "bench", "scope": "echo",
	}).Serialize()
}

// cpu is the process's time on the processor so far.
func (g *gateway) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ is 100
}

// resident is the process's resident memory in bytes.
func (g *gateway) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// ownCPU is this process's: clients and upstream together.
func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
