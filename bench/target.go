//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

//go:embed *.tmpl
var templates embed.FS

// target is a running server that is measured.
type target struct {
	process
	name    string
	addr    string            // by default
	checked map[string]string // by algorithm: where tokens of it are checked
	admin   string            // the gateway's socket
}

// echoPath is where all of them pass on to the upstream, besidePath where the
// gateway does to the other one.
const (
	echoPath   = "/echo"
	besidePath = "/beside"
)

// server is something that can be started to be measured. What has started was
// seen to refuse bad tokens.
type server struct {
	name  string
	start func(context.Context) (*target, error)
}

// servers are the gateway, as it comes, and the peers that are installed.
func (b *bench) servers() []server {
	all := []server{b.gateway(variant{})}
	for _, peer := range []server{{"haproxy", b.startHAProxy}, {"nginx", b.startNginx}} {
		if b.peers[peer.name] != "" {
			all = append(all, b.verified(peer))
		}
	}
	return all
}

func (b *bench) gateway(v variant) server {
	s := server{"wsbouncer", func(ctx context.Context) (*target, error) { return b.startGateway(ctx, v) }}
	if v.tls { // whose clients are others
		return s
	}
	return b.verified(s)
}

func (b *bench) verified(s server) server {
	return server{s.name, func(ctx context.Context) (*target, error) {
		t, err := s.start(ctx)
		if err != nil {
			return nil, err
		}
		if err := b.verify(ctx, t); err != nil {
			return nil, errors.Join(err, t.end())
		}
		return t, nil
	}}
}

// setting is what the templates are filled with.
type setting struct {
	Dir, Addr, Upstream, Beside, Secret, Relay string
	TLS                                        bool
	Descriptors                                uint64
	Algorithms                                 []algorithm
}

type algorithm struct{ Name, Issuer, File, Addr string }

func (b *bench) setting(name string) (setting, error) {
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return setting{}, err
	}
	s := setting{Dir: dir, Upstream: b.up.addr, Beside: b.beside.addr, Secret: b.keys.secret, Descriptors: b.descriptors}
	if s.Addr, err = freeAddr(); err != nil {
		return s, err
	}
	for _, alg := range algorithms {
		a := algorithm{Name: alg, Issuer: issuerName(alg), File: b.keys.file(alg)}
		if a.Addr, err = freeAddr(); err != nil {
			return s, err
		}
		s.Algorithms = append(s.Algorithms, a)
	}
	return s, nil
}

func (s setting) write(name string) (string, error) {
	t, err := template.ParseFS(templates, name+".tmpl")
	if err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	return path, errors.Join(t.Execute(f, s), f.Close())
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// variant is a way to run the gateway.
type variant struct {
	relay string // empty: as it comes
	tls   bool
}

func (b *bench) startGateway(ctx context.Context, v variant) (*target, error) {
	s, err := b.setting("gateway")
	if err != nil {
		return nil, err
	}
	s.Relay, s.TLS = v.relay, v.tls
	if v.tls {
		if err := selfSigned(s.Dir); err != nil {
			return nil, err
		}
	}
	conf, err := s.write("wsbouncer.yaml")
	if err != nil {
		return nil, err
	}
	t := &target{name: "wsbouncer", addr: s.Addr, checked: map[string]string{}}
	for _, alg := range algorithms {
		t.checked[alg] = s.Addr
	}
	t.dir, t.keep, t.cmd = s.Dir, b.keep, command(ctx, b.binary, "serve", "--config", conf)
	stderr, err := t.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cores.start(t.cmd); err != nil {
		return nil, fmt.Errorf("%w (make build makes it)", err)
	}
	lines := bufio.NewReader(stderr)
	var all []string
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("the gateway did not start: %s: %w", strings.Join(all, ""), t.cmd.Wait())
		}
		all = append(all, text)
		var line struct{ Msg, Admin string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "ready" {
			t.admin = line.Admin
			break
		}
	}
	t.done = make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, lines) // its log, read and thrown away
		t.err = t.cmd.Wait()
		close(t.done)
	}()
	return t, nil
}

func (b *bench) startHAProxy(ctx context.Context) (*target, error) {
	s, err := b.setting("haproxy")
	if err != nil {
		return nil, err
	}
	conf, err := s.write("haproxy.cfg")
	if err != nil {
		return nil, err
	}
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(s.Dir, "log.sock"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	t := &target{name: "haproxy", checked: map[string]string{}}
	for _, a := range s.Algorithms {
		if a.Name != "EdDSA" { // 2.6 does not know it
			t.checked[a.Name] = a.Addr
		}
	}
	t.addr = t.checked["HS256"]
	t.dir, t.keep, t.cmd = s.Dir, b.keep, command(ctx, b.peers["haproxy"], "-db", "-f", conf)
	if err := b.startPeer(t); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() { <-t.done; log.Close() }()
	go func() {
		for buf := make([]byte, 4096); ; {
			if _, err := log.Read(buf); err != nil {
				return
			}
		}
	}()
	return t, nil
}

func (b *bench) startNginx(ctx context.Context) (*target, error) {
	s, err := b.setting("nginx")
	if err != nil {
		return nil, err
	}
	conf, err := s.write("nginx.conf")
	if err != nil {
		return nil, err
	}
	t := &target{name: "nginx", addr: s.Addr, checked: map[string]string{}}
	for _, alg := range algorithms {
		t.checked[alg] = s.Addr
	}
	t.dir, t.keep, t.cmd = s.Dir, b.keep, command(ctx, b.peers["nginx"], "-p", s.Dir, "-c", conf, "-e", filepath.Join(s.Dir, "error.log"))
	if err := b.startPeer(t); err != nil {
		return nil, err
	}
	return t, nil
}

// startPeer starts a peer and waits until it accepts.
func (b *bench) startPeer(t *target) error {
	var out strings.Builder
	t.cmd.Stdout, t.cmd.Stderr = &out, &out
	if err := b.cores.start(t.cmd); err != nil {
		return err
	}
	t.wait()
	for end := time.Now().Add(5 * time.Second); ; {
		c, err := net.Dial("tcp", t.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-t.done:
			return fmt.Errorf("%s did not start: %s", t.name, out.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return errors.Join(fmt.Errorf("%s does not listen: %w", t.name, err), t.end())
		}
	}
}

// selfSigned writes a certificate for 127.0.0.1.
func selfSigned(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
}
