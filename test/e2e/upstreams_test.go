package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// upstreamState is what status tells of an upstream.
type upstreamState struct {
	URL         string
	Connections int
	State       string
	LastFailure string `json:"last_failure"`
}

// upstreams are the state of each, by host:port.
func (s *server) upstreams() map[string]upstreamState {
	s.t.Helper()
	var st struct{ Upstreams []upstreamState }
	if err := json.Unmarshal([]byte(s.cli("status", "--json")), &st); err != nil {
		s.t.Fatal(err)
	}
	states := map[string]upstreamState{}
	for _, u := range st.Upstreams {
		states[strings.TrimPrefix(u.URL, "ws://")] = u
	}
	return states
}

// waitState waits until an upstream is in a state, with so many connections.
func (s *server) waitState(addr, state string, connections int) {
	s.t.Helper()
	var got map[string]upstreamState
	eventually(s.t, fmt.Sprintf("%s %s with %d connections", addr, state, connections), func() bool {
		got = s.upstreams()
		return got[addr].State == state && got[addr].Connections == connections
	})
}

// routeTo is a route with several upstreams and more lines.
func routeTo(addrs []string, lines ...string) string {
	text := "  - path: /ws\n    upstream: [\"ws://" + strings.Join(addrs, `", "ws://`) + "\"]\n"
	for _, l := range lines {
		text += "    " + l + "\n"
	}
	return text
}

// again listens where something listened.
func again(t *testing.T, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	eventually(t, "the port "+addr, func() bool {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	return l
}

// Handshakes go where the fewest connections are; when an upstream dies nobody who
// comes is refused for it, and when it is back it is used again.
func TestUpstreamsShareDieAndComeBack(t *testing.T) {
	t.Parallel()
	a, b := newUpstream(t, nil), newUpstream(t, nil)
	s, iss := gate(t, nil, routeTo([]string{a.addr, b.addr}))
	token := bearer(iss.token())
	of := map[*upstream][]*client{}
	connect := func() *upstream {
		was := a.count()
		c := s.connect("/ws", token).alive()
		up := b
		if a.count() > was {
			up = a
		}
		of[up] = append(of[up], c)
		return up
	}
	for range 10 {
		connect()
	}
	if len(of[a]) != 5 || len(of[b]) != 5 {
		t.Fatalf("%d and %d connections", len(of[a]), len(of[b]))
	}
	for _, c := range of[a][:4] {
		c.conn.Close()
	}
	s.waitState(a.addr, "ok", 1)
	for range 4 {
		if connect() != a {
			t.Error("the upstream with more connections got one more")
		}
	}
	s.waitState(a.addr, "ok", 5)
	s.waitState(b.addr, "ok", 5)

	b.close()
	for _, c := range of[b] {
		c.closes(1013, "upstream_gone")
	}
	s.waitState(b.addr, "ok", 0) // so that b would be the first choice
	for range 10 {
		if connect() != a {
			t.Fatal("a dead upstream took a connection")
		}
	}
	s.waitState(b.addr, "unreachable", 0)
	if u := s.upstreams()[b.addr]; u.LastFailure != "refused" {
		t.Errorf("status: %+v", u)
	}
	if out := s.cli("status"); !strings.Contains(out, "ws://"+b.addr+" unreachable, 0 connections, last failure ") || !strings.Contains(out, "(refused)") {
		t.Errorf("status:\n%s", out)
	}

	b = newUpstreamOn(t, again(t, b.addr), nil)
	eventually(t, "the upstream used again", func() bool { return connect() == b })
	s.waitState(b.addr, "ok", len(of[b]))
	s.waitLog("the upstream is back", b.addr)
}

// What a check finds holds before a client meets it, and a check takes nothing of
// a client along.
func TestUpstreamsAreChecked(t *testing.T) {
	t.Parallel()
	canary := newUpstream(t, nil)
	var status atomic.Int64
	status.Store(200)
	checks := make(chan string, 1000)
	checked := func(c *upConn) {
		if c.req.URL.Path != "/healthz" {
			echo(c)
			return
		}
		checks <- c.head
		fmt.Fprintf(c, "HTTP/1.1 %d X\r\nLocation: http://%s/\r\nContent-Length: 1000000000\r\n\r\n", status.Load(), canary.addr)
	}
	ill := newUpstream(t, checked)
	good := newUpstream(t, func(c *upConn) {
		if c.req.URL.Path == "/healthz" {
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			return
		}
		echo(c)
	})
	addrs := []string{ill.addr, good.addr}
	s, iss := gate(t, nil, routeTo(addrs, "health_check: {path: /healthz, interval: 1s, timeout: 1s, unhealthy_threshold: 1}"))
	token := bearer(iss.token())
	head := <-checks
	if want := "GET /healthz HTTP/1.1\r\nHost: " + ill.addr + "\r\nUser-Agent: wsbouncer\r\nConnection: close\r\n\r\n"; head != want {
		t.Errorf("the check:\n%q\nwant\n%q", head, want)
	}
	live := s.connect("/ws", token).alive()
	for _, bad := range []int64{503, 302} {
		status.Store(bad)
		s.waitLog("the upstream is out", fmt.Sprintf("status %d", bad), ill.addr)
		if u := s.upstreams()[ill.addr]; u.State != "out" || u.LastFailure != fmt.Sprintf("health check: status %d", bad) {
			t.Errorf("status: %+v", u)
		}
		before := ill.handshakes("/ws")
		for range 6 {
			s.connect("/ws", token).alive()
		}
		if n := ill.handshakes("/ws") - before; n != 0 {
			t.Errorf("an upstream that is out got %d connections", n)
		}
		live.alive()
		status.Store(200)
		eventually(t, "the upstream back", func() bool { return s.upstreams()[ill.addr].State == "ok" })
		for range 12 {
			s.connect("/ws", token).alive()
		}
		if ill.handshakes("/ws") == before {
			t.Error("an upstream that is back got no connection")
		}
	}
	// A reload ends the checks, and what they said.
	status.Store(500)
	eventually(t, "the upstream out", func() bool { return s.upstreams()[ill.addr].State == "out" })
	s.writeConfig(trustYAML(iss.name) + "routes:\n" + routeTo(addrs) + generous())
	s.cli("reload")
	eventually(t, "the upstream no longer out", func() bool { return s.upstreams()[ill.addr].State == "ok" })
	live.alive()
	if n := canary.count(); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
}

// handshakes counts the requests for a path.
func (u *upstream) handshakes(path string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.conns {
		if c.req.URL.Path == path {
			n++
		}
	}
	return n
}

// A reload adds and removes upstreams and leaves live connections where they are.
func TestUpstreamsReload(t *testing.T) {
	t.Parallel()
	a, b := newUpstream(t, nil), newUpstream(t, nil)
	s, iss := gate(t, nil, routeTo([]string{a.addr}))
	token := bearer(iss.token())
	reload := func(addrs ...string) {
		s.writeConfig(trustYAML(iss.name) + "routes:\n" + routeTo(addrs) + generous())
		s.cli("reload")
	}
	onA := []*client{s.connect("/ws", token).alive(), s.connect("/ws", token).alive()}
	reload(a.addr, b.addr)
	s.waitState(a.addr, "ok", 2) // its count is kept
	onB := []*client{s.connect("/ws", token).alive(), s.connect("/ws", token).alive()}
	if a.count() != 2 || b.count() != 2 {
		t.Errorf("%d and %d connections", a.count(), b.count())
	}
	reload(b.addr)
	if _, there := s.upstreams()[a.addr]; there {
		t.Error("status shows an upstream that is no more")
	}
	for range 3 {
		onB = append(onB, s.connect("/ws", token).alive())
	}
	if a.count() != 2 || b.count() != 5 {
		t.Errorf("%d and %d connections", a.count(), b.count())
	}
	for _, c := range append(onA, onB...) {
		c.alive()
	}
}

// full is an address that takes no connection and refuses none: its queue is full.
func full(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	skip(t, "this system's queues are never full")
	return ""
}

// Each way in which no upstream can be had has its answer, and each takes the time
// that was configured.
func TestUpstreamsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	hangs, good := full(t), newUpstream(t, nil)
	silent := newUpstream(t, func(c *upConn) { _, _ = io.Copy(io.Discard, c.br) })
	dead, dead2 := freeAddr(t), freeAddr(t)
	s, iss := gate(t, nil, strings.NewReplacer("HANGS", hangs, "GOOD", good.addr, "SILENT", silent.addr, "DEAD2", dead2, "DEAD", dead).Replace(`
  - {path: /hangs, upstream: "ws://HANGS", connect_timeout: 300ms}
  - {path: /hangs/by-close, upstream: "ws://HANGS", connect_timeout: 300ms, reject: close}
  - {path: /hangs/or-good, upstream: ["ws://HANGS", "ws://GOOD"], connect_timeout: 300ms}
  - {path: /silent, upstream: ["ws://SILENT", "ws://SILENT/other"]}
  - {path: /dead, upstream: ["ws://DEAD", "ws://DEAD2"]}
  - {path: /dead/by-close, upstream: ["ws://DEAD", "ws://DEAD2"], reject: close}
  - {path: /dead/or-good, upstream: ["ws://DEAD", "ws://DEAD2", "ws://GOOD"]}
`), "handshake_timeout: 2s")
	token := bearer(iss.token())

	timed := func(from, to time.Duration, f func()) {
		t.Helper()
		began := time.Now()
		f()
		if took := time.Since(began); took < from || took > to {
			t.Errorf("it took %v, not %v to %v", took, from, to)
		}
	}
	timed(300*time.Millisecond, 1900*time.Millisecond, func() { s.refused(504, "upstream_timeout", "/hangs", token) })
	s.waitLog("the upstream cannot be reached", hangs)
	if u := s.upstreams()[hangs]; u.LastFailure != "timeout" {
		t.Errorf("status: %+v", u)
	}
	s.connect("/hangs/by-close", token).closes(1013, "upstream_timeout")
	for range 3 {
		timed(0, 1900*time.Millisecond, func() { s.connect("/hangs/or-good", token).alive() })
	}
	timed(1500*time.Millisecond, patience, func() { s.refused(504, "upstream_timeout", "/silent", token) })
	if n := silent.count(); n != 1 {
		t.Errorf("a handshake that may have been acted on was sent to %d upstreams", n)
	}
	for range 6 { // before they are put aside, and after
		timed(0, 1900*time.Millisecond, func() { s.refused(502, "upstream_refused", "/dead", token) })
	}
	for addr, u := range s.upstreams() {
		if (addr == dead || addr == dead2) && (u.State != "unreachable" || u.LastFailure != "refused") {
			t.Errorf("status: %+v", u)
		}
	}
	s.connect("/dead/by-close", token).closes(1013, "upstream_refused")
	for range 6 {
		s.connect("/dead/or-good", token).alive()
	}
}

// An upstream that refuses some clients goes on being used for the others.
func TestUpstreamsOwnRefusalsEndNobodyElse(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, func(c *upConn) {
		if c.req.URL.Path == "/echo" {
			echo(c)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 %s X\r\nContent-Length: 0\r\n\r\n", strings.TrimPrefix(c.req.URL.Path, "/"))
	})
	s, iss := gate(t, nil, `  - {path: "/{what}", upstream: "ws://`+up.addr+"\"}\n")
	token := bearer(iss.token())
	live := s.connect("/echo", token)
	for _, c := range []struct{ status, state string }{{"403", "ok"}, {"503", "avoided"}} {
		for range 8 {
			s.refused(502, "upstream_refused", "/"+c.status, token)
		}
		if u := s.upstreams()[up.addr]; u.State != c.state {
			t.Errorf("after %s: %+v", c.status, u)
		}
		live.alive()
		s.connect("/echo", token).alive()
	}
}

// A gateway without a free descriptor says so, blames no upstream, and goes on when
// there is one again.
func TestUpstreamsWithoutDescriptors(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("prlimit"); err != nil {
		skip(t, "no prlimit here")
	}
	up := newUpstream(t, nil)
	s, iss := gate(t, nil, routeTo([]string{up.addr}))
	token := bearer(iss.token())
	live := s.connect("/ws", token).alive()
	limit := func(n int) {
		t.Helper()
		if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(s.cmd.Process.Pid), "--nofile="+strconv.Itoa(n)+":").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for range 4 { // more than what would put an upstream aside
		c := s.raw().send("GET /healthz HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n") // accepted
		if a := c.response(); a.status != http.StatusOK {
			t.Fatal(a.status)
		}
		limit(s.freeDescriptor())
		a := c.send(s.upgrade("/ws", token)).response()
		limit(1024)
		if a.status != http.StatusServiceUnavailable || a.code() != "overloaded" || a.header.Get("Retry-After") == "" {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	s.waitLog("no file descriptor is left", "too many open files", "ulimit -n", up.addr)
	if u := s.upstreams()[up.addr]; u.State != "ok" || u.LastFailure != "" || u.Connections != 1 {
		t.Errorf("status: %+v", u)
	}
	if out := s.cli("status"); !strings.Contains(out, "exhausted    descriptors, 4 times: raise ulimit -n") {
		t.Errorf("status:\n%s", out)
	}
	live.alive()
	s.connect("/ws", token).alive()
}

// freeDescriptor is the lowest number of no open file of the process.
func (s *server) freeDescriptor() int {
	s.t.Helper()
	for n := 0; ; n++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", s.cmd.Process.Pid, n)); err != nil {
			return n
		}
	}
}

// A peer that vanished without a word is found by TCP, on both sides.
func TestTCPKeepAlive(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, "  - {path: /ws, upstream: \"ws://UPSTREAM\"}\n")
	c := s.connect("/ws", bearer(iss.token())).alive()
	for side, ends := range map[string][2]string{
		"client":   {s.addr, c.conn.LocalAddr().String()},
		"upstream": {up.last().RemoteAddr().String(), up.addr},
	} {
		eventually(t, "a keep-alive timer towards the "+side, func() bool { return timer(t, ends[0], ends[1]) == "02" })
	}
}

// timer is which of the kernel's timers runs for a TCP socket; 02 is keep-alive's.
func timer(t *testing.T, local, remote string) string {
	t.Helper()
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		skip(t, "no /proc here")
	}
	defer f.Close()
	port := func(addr string) string {
		_, p, _ := net.SplitHostPort(addr)
		n, _ := strconv.Atoi(p)
		return fmt.Sprintf(":%04X", n)
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 5 && strings.HasSuffix(f[1], port(local)) && strings.HasSuffix(f[2], port(remote)) {
			kind, _, _ := strings.Cut(f[5], ":")
			return kind
		}
	}
	return ""
}
