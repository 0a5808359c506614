//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

// The names of things in the configuration.
const (
	foreignIssuer = "https://idp.example"
	origin        = "https://app.example"
	signingKey    = "a secret of thirty-two bytes, at least"
	ownTTL        = 4 * time.Second
	idleTimeout   = 3 * time.Second
	writeTimeout  = 3 * time.Second
)

const configuration = `listen: %s
public_url: %s
data: data
%s
origins: [%s]
drain: 1s
issuer: {access_ttl: 4s, sessions_per_subject: 10000}
trust:
  - {issuer: %s, audience: chat, algorithms: [HS256], keys: {secret_file: secret}, leeway: 0s}
routes:
  - {path: "/named/{n}", upstream: "ws://UP", token_from: [ticket, header, subprotocol, query, cookie], compression: pass}
  - {path: "/session/{n}", upstream: "ws://UP", extend: session, reject: close, utf8: check, token_from: [ticket, header, subprotocol, query, cookie]}
  - {path: "/first/{n}", upstream: "ws://UP", token_from: [first_message, header], in_band_refresh: true}
%s
limits:
  connections_per_ip: 100000
  connections_per_subject: 100000
  unauthenticated: 100000
  handshakes_per_ip: {rate: 100000/s, burst: 100000}
  message_rate: {rate: 100000/s, burst: 100000}
  byte_rate: {rate: 1GiB/s, burst: 1GiB}
  idle_timeout: %s
  write_timeout: %s
`

// gateway is the program under test.
type gateway struct {
	cmd      *exec.Cmd
	dir      string
	addr     string
	tls      *tls.Config // of its clients; nil without
	way      string      // lines of the configuration
	upstream string
	memory   int64 // what a quiet one may have more than before
	client   *adminapi.Client
	signer   jose.Signer
	done     chan struct{} // the log has ended

	counts map[string]int // of the log's lines that are not INFO; whole when done is closed
	reload atomic.Int64   // lines that say so
}

func startGateway(o options, way, upstream string) (*gateway, error) {
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "wsbouncer-soak-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(signingKey)}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		return nil, err
	}
	g := &gateway{dir: dir, addr: addr, upstream: upstream, memory: o.memory << 20, signer: signer, done: make(chan struct{}), counts: map[string]int{}}
	switch way {
	case "tls":
		g.way = "tls: {cert: cert.pem, key: key.pem}"
		if g.tls, err = certify(dir); err != nil {
			return nil, err
		}
	default:
		g.way = "relay: " + way
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "secret"), []byte(signingKey), 0o600), g.write("")); err != nil {
		return nil, err
	}
	g.cmd = exec.Command(binary, "serve", "--config", filepath.Join(dir, "wsbouncer.yaml"))
	g.cmd.Dir = dir
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	ready := make(chan string, 1)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	go func() {
		defer log.Close()
		g.read(io.TeeReader(stderr, log), ready)
	}()
	select {
	case socket := <-ready:
		g.client = adminapi.NewUnixClient(socket)
		return g, nil
	case <-g.done:
		return nil, fmt.Errorf("the gateway did not start: see %s", log.Name())
	}
}

// certify writes a certificate for the gateway, and gives what its clients need to
// believe it.
func certify(dir string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(1000 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(crand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{RootCAs: roots}, errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// dial opens a connection to the public listener.
func (g *gateway) dial() (net.Conn, error) {
	if g.tls != nil {
		return tls.Dial("tcp", g.addr, g.tls)
	}
	return net.Dial("tcp", g.addr)
}

func (g *gateway) url() string {
	if g.tls != nil {
		return "https://" + g.addr
	}
	return "http://" + g.addr
}

// cookie is the name of the one with the access token.
func (g *gateway) cookie() string {
	if g.tls != nil {
		return "__Host-wsbouncer"
	}
	return "wsbouncer"
}

// write writes the configuration, with more routes.
func (g *gateway) write(more string) error {
	text := fmt.Sprintf(configuration, g.addr, g.url(), g.way, origin, foreignIssuer, more, idleTimeout, writeTimeout)
	return os.WriteFile(filepath.Join(g.dir, "wsbouncer.yaml"), []byte(strings.ReplaceAll(text, "UP", g.upstream)), 0o600)
}

// read reads the log until the program is gone.
func (g *gateway) read(stderr io.Reader, ready chan<- string) {
	defer close(g.done)
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Level, Msg, Admin string }
		_ = json.Unmarshal(lines.Bytes(), &line)
		switch {
		case line.Msg == "ready":
			ready <- line.Admin
		case strings.HasPrefix(line.Msg, "reload"):
			g.reload.Add(1)
		}
		if line.Level != "INFO" || line.Msg == "" {
			g.counts[line.Level+" "+line.Msg]++
		}
	}
}

// end stops it as an operator does: it must drain and exit 0.
func (g *gateway) end(found *findings) {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.done:
	case <-time.After(20 * time.Second):
		found.fault("the gateway did not end after SIGTERM")
		_ = g.cmd.Process.Signal(syscall.SIGQUIT)
		<-g.done
	}
	if err := g.cmd.Wait(); err != nil {
		found.fault("the gateway ended: %v", err)
	}
	for what, n := range g.counts {
		if !slices.Contains(usual, what) {
			found.fault("the log has %d lines %q", n, what)
		}
	}
	if found.wrong > 0 {
		found.say("its log and configuration are in %s", g.dir)
		return
	}
	os.RemoveAll(g.dir)
}

// usual are the lines that the log may have besides those of level INFO.
var usual = []string{
	"WARN insecure setting",
	"ERROR reload refused; nothing changed",
	"WARN the upstream did not accept the handshake", // while it fails or restarts
	"WARN the upstream cannot be reached",
	"WARN the upstream is put aside",
	"WARN the upstream is back",
	"WARN similar lines were suppressed",
}

// holding is what the program holds.
type holding struct {
	connections, descriptors, goroutines int
	heap, resident                       int64
}

func (h holding) String() string {
	return fmt.Sprintf("%d connections, %d descriptors, %d goroutines, heap %.1f MB, resident %.1f MB",
		h.connections, h.descriptors, h.goroutines, float64(h.heap)/(1<<20), float64(h.resident)/(1<<20))
}

// moreDescriptors is how many more a quiet program may hold than it did before: the
// database opens readers when it first needs them, two descriptors each, up to a
// bound. Goroutines may be no more, memory by options.memory.
const moreDescriptors = 6

func (g *gateway) holds(ctx context.Context) (holding, error) {
	s, err := g.client.Stats(ctx)
	if err != nil {
		return holding{}, err
	}
	h := holding{connections: s.Connections, goroutines: s.Goroutines, heap: int64(s.HeapBytes)}
	if names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid)); err == nil {
		h.descriptors = len(names)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", g.cmd.Process.Pid)); err == nil {
		var total, pages int64
		_, _ = fmt.Sscan(string(b), &total, &pages)
		h.resident = pages * int64(os.Getpagesize())
	}
	return h, nil
}

// settling is how long a quiet program may take to be what it was: memory is
// given back at most every 30 s.
const settling = 45 * time.Second

// quiet waits until the program, which no client uses, holds no more than it
// did at before. Of a zero before it demands that no connection is left.
func (g *gateway) quiet(ctx context.Context, before holding, found *findings) (h holding, err error) {
	begin := time.Now()
	for {
		if h, err = g.holds(ctx); err != nil {
			return h, err
		}
		done := h.connections == 0
		if before != (holding{}) {
			done = done && h.descriptors <= before.descriptors+moreDescriptors && h.goroutines <= before.goroutines &&
				h.heap <= before.heap+g.memory && h.resident <= before.resident+g.memory
		}
		if done {
			return h, nil
		}
		if time.Since(begin) > settling {
			found.fault("without any client it holds %v; before it was %v", h, before)
			return h, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return h, err
		}
	}
}

// compare demands that a quiet moment holds what an earlier one did.
func (g *gateway) compare(h, earlier holding, found *findings) {
	if h.heap > earlier.heap+g.memory || h.resident > earlier.resident+g.memory {
		found.fault("memory grew: %v, and earlier %v", h, earlier)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
