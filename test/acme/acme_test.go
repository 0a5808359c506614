package acme

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/letsencrypt/challtestsrv"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

const (
	patience = 60 * time.Second
	domain   = "rt.example.com"
	life     = 60 // of a certificate, in seconds: renewed as soon as it is looked at
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "wsbouncer-acme-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "wsbouncer")
		build := exec.Command("go", "build", "-o", binary, "./cmd/wsbouncer")
		build.Dir, build.Stdout, build.Stderr = "../..", os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the program under test:", err)
			return 1
		}
		return m.Run()
	}())
}

// authority is Pebble, with a DNS that says every name is this machine.
type authority struct {
	directory string
	tls       string // its own certificate, in PEM
	roots     *x509.CertPool
}

func newAuthority(t *testing.T, httpPort, tlsPort int) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	quiet := log.New(io.Discard, "", 0)
	names := freeAddr(t)
	dns, err := challtestsrv.New(challtestsrv.Config{Log: quiet, DNSAddrs: []string{names}})
	if err != nil {
		t.Fatal(err)
	}
	dns.SetDefaultDNSIPv6("")
	go dns.Run()
	t.Cleanup(dns.Shutdown)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "short", ValidityPeriod: life}})
	front := wfe.New(quiet, store, va.New(quiet, httpPort, tlsPort, false, names, store), issuer, []string{"pebble.example"}, false, false, 0, 0)
	srv := httptest.NewUnstartedServer(front.Handler())
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	t.Cleanup(srv.Close)
	a := &authority{directory: srv.URL + wfe.DirectoryPath, roots: x509.NewCertPool()}
	a.tls = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	if !a.roots.AppendCertsFromPEM(issuer.GetRootCert(0).PEM()) {
		t.Fatal("Pebble has no root")
	}
	return a
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

func portOf(t *testing.T, addr string) (n int) {
	t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// server is the running program.
type server struct {
	t         *testing.T
	dir, addr string
	cmd       *exec.Cmd
	log       *logBuffer
	exited    chan struct{}
	roots     *x509.CertPool
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

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

func newServer(t *testing.T, a *authority, addr, more string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), addr: addr, roots: a.roots}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	}))
	t.Cleanup(up.Close)
	_, port, _ := net.SplitHostPort(addr)
	for name, text := range map[string]string{
		"directory.pem": a.tls,
		"wsbouncer.yaml": fmt.Sprintf(`listen: %s
public_url: https://%s:%s
trusted_proxies: [192.0.2.1]
drain: 0s
tls:
  acme: {domains: [%s], email: ops@example.com, accept_terms: true, directory: %q, ca: directory.pem%s}
issuer: {}
routes: [{path: /chat, upstream: "ws://%s"}]
`, addr, domain, port, domain, a.directory, more, strings.TrimPrefix(up.URL, "http://")),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.run()
	t.Cleanup(s.stop)
	return s
}

func (s *server) run() {
	s.t.Helper()
	s.log, s.exited = &logBuffer{}, make(chan struct{})
	s.cmd = exec.Command(binary, "serve")
	s.cmd.Dir = s.dir
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, log, exited := s.cmd, s.log, s.exited
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			fmt.Fprintln(log, lines.Text())
		}
		_ = cmd.Wait()
		close(exited)
	}()
	s.logged(`"msg":"ready"`)
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.exited
		s.t.Errorf("it did not end:\n%s", s.log)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("exit code %d:\n%s", code, s.log)
	}
}

func eventually(t *testing.T, what func() string, ok func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what())
		case <-tick.C:
		}
	}
}

// logged waits for a line with all parts.
func (s *server) logged(parts ...string) {
	s.t.Helper()
	eventually(s.t, func() string { return fmt.Sprintf("a line with %q in\n%s", parts, s.log) }, func() bool {
	lines:
		for line := range strings.Lines(s.log.String()) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue lines
				}
			}
			return true
		}
		return false
	})
}

func (s *server) tls() *tls.Config {
	return &tls.Config{RootCAs: s.roots, ServerName: domain}
}

// serving is the certificate shown, which must verify.
func (s *server) serving() (*x509.Certificate, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: s.tls()}
	c, err := d.DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func (s *server) tool(stdin string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Stdin = s.dir, strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("wsbouncer %q: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

// connect opens a WebSocket, and gives what proves that it lives.
func (s *server) connect() (alive func()) {
	s.t.Helper()
	token := s.tool("", "token", "issue", "--subject", "ann", "--ttl", "10m")
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: s.tls(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", s.addr)
		},
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	s.t.Cleanup(cancel)
	_, port, _ := net.SplitHostPort(s.addr)
	c, res, err := websocket.Dial(ctx, "wss://"+domain+":"+port+"/chat", &websocket.DialOptions{
		HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err != nil {
		s.t.Fatalf("%v %v\n%s", err, res, s.log)
	}
	s.t.Cleanup(func() { _ = c.CloseNow() })
	return func() {
		s.t.Helper()
		if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			s.t.Fatal(err)
		}
		if _, b, err := c.Read(ctx); err != nil || string(b) != "hello" {
			s.t.Fatalf("%q %v", b, err)
		}
	}
}

// The program gets a certificate by TLS-ALPN-01 on its own port, keeps it for itself
// in the data folder, and renews it under live connections, which do not notice.
func TestCertificateByTLSALPN(t *testing.T) {
	addr := freeAddr(t)
	a := newAuthority(t, portOf(t, freeAddr(t)), portOf(t, addr))
	s := newServer(t, a, addr, "")
	s.logged("certificate obtained", domain, `"renewal":false`)
	first, err := s.serving()
	if err != nil {
		t.Fatal(err)
	}
	alive := []func(){s.connect(), s.connect()}
	for _, f := range alive {
		f()
	}
	s.logged("certificate obtained", domain, `"renewal":true`)
	eventually(t, func() string { return "another certificate\n" + s.log.String() }, func() bool {
		next, err := s.serving()
		if err != nil {
			t.Fatalf("%v\n%s", err, s.log)
		}
		return next.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	for _, f := range append(alive, s.connect()) {
		f()
	}
	// Nobody else can read the keys.
	keys := 0
	err = filepath.WalkDir(filepath.Join(s.dir, "wsbouncer-data", "acme"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			if os.IsNotExist(err) { // a lock, meanwhile released
				return nil
			}
			return err
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || keys < 2 { // the account's and the certificate's
		t.Errorf("%d keys, %v", keys, err)
	}
	// After a restart what was got is there at once.
	s.stop()
	s.run()
	eventually(t, func() string { return "a certificate after the restart\n" + s.log.String() }, func() bool { _, err := s.serving(); return err == nil })
	if log := s.log.String(); strings.Contains(log, "BEGIN") || strings.Contains(log, "panic") {
		t.Error(log)
	}
}

// With http_port the name is checked by HTTP-01, on that port.
func TestCertificateByHTTP(t *testing.T) {
	plain := freeAddr(t)
	a := newAuthority(t, portOf(t, plain), portOf(t, freeAddr(t)))
	s := newServer(t, a, freeAddr(t), fmt.Sprintf(", http_port: %d", portOf(t, plain)))
	s.logged("certificate obtained", domain)
	if _, err := s.serving(); err != nil {
		t.Fatal(err)
	}
	s.connect()()
}

// An authority that cannot check the name gives no certificate; why is told, and
// nobody is served meanwhile.
func TestNoCertificate(t *testing.T) {
	addr := freeAddr(t)
	a := newAuthority(t, portOf(t, freeAddr(t)), portOf(t, freeAddr(t))) // other ports
	s := newServer(t, a, addr, "")
	s.logged("no certificate could be obtained", domain, `"level":"ERROR"`)
	if c, err := s.serving(); err == nil {
		t.Errorf("%v is served", c.DNSNames)
	}
	if out := s.tool("", "status"); !strings.Contains(out, "ready") {
		t.Error(out)
	}
}
