package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

func routesOf(t *testing.T, old *table, routes ...Route) *table {
	t.Helper()
	tab, _, err := newTable(routes, old)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func ups(addresses ...string) (list []*url.URL) {
	for _, a := range addresses {
		u, err := url.Parse(a)
		if err != nil {
			panic(err)
		}
		list = append(list, u)
	}
	return list
}

func (t *table) servers(path string) []*upstream {
	u := ups("http://x" + path)[0]
	return t.match(requestOf(u)).upstreams
}

func TestUpstreamsAreSharedAndOutliveReloads(t *testing.T) {
	pool := x509.NewCertPool()
	first := routesOf(t, nil,
		Route{Path: "/a", Upstreams: ups("ws://One:80", "ws://two", "ws://two:80/")},
		Route{Path: "/b", Upstreams: ups("ws://one/")},
		Route{Path: "/c", Upstreams: ups("wss://one", "ws://one:81", "ws://one/path")},
		Route{Path: "/d", Upstreams: ups("wss://one"), UpstreamTLS: &tls.Config{MinVersion: tls.VersionTLS12}},
		Route{Path: "/e", Upstreams: ups("wss://one"), UpstreamTLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}},
	)
	if n := len(first.servers("/a")); n != 2 {
		t.Errorf("an upstream that is named twice counts as %d", n)
	}
	if first.servers("/a")[0] != first.servers("/b")[0] {
		t.Error("two routes to one server count apart")
	}
	if first.servers("/c")[0] != first.servers("/d")[0] {
		t.Error("the default TLS settings, said and unsaid, count apart")
	}
	if first.servers("/d")[0] == first.servers("/e")[0] {
		t.Error("what one authority vouches for counts for another")
	}
	if n := len(first.upstreams); n != 6 {
		t.Errorf("%d upstreams, want 6", n)
	}
	first.servers("/b")[0].active.Add(3)
	again := x509.NewCertPool() // read anew
	second := routesOf(t, first,
		Route{Path: "/new", Upstreams: ups("ws://three", "ws://one")},
		Route{Path: "/e", Upstreams: ups("wss://one"), UpstreamTLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: again}},
	)
	if u := second.servers("/new")[1]; u != first.servers("/b")[0] || u.active.Load() != 3 {
		t.Error("a reload forgot an upstream that stays")
	}
	if second.servers("/e")[0] != first.servers("/e")[0] {
		t.Error("a reload forgot an upstream with TLS settings that stay")
	}
	if len(second.upstreams) != 3 {
		t.Errorf("%d upstreams after the reload", len(second.upstreams))
	}
}

// rigBalance has a route with so many upstreams.
func rigBalance(t *testing.T, n int) (*balancer, *route) {
	t.Helper()
	list := ups("ws://a", "ws://b", "ws://c", "ws://d")[:n]
	tab := routesOf(t, nil, Route{Path: "/r", Upstreams: list})
	b := &balancer{report: newReporter(slog.New(slog.DiscardHandler))}
	return b, tab.match(requestOf(ups("http://x/r")[0]))
}

func TestBalanceLeastConnections(t *testing.T) {
	b, rt := rigBalance(t, 3)
	count := func() (a, b, c int64) {
		return rt.upstreams[0].active.Load(), rt.upstreams[1].active.Load(), rt.upstreams[2].active.Load()
	}
	now := time.Now()
	for range 30 {
		b.pick(rt, nil, now).worked(true)
	}
	if x, y, z := count(); x != 10 || y != 10 || z != 10 {
		t.Errorf("30 connections are spread %d %d %d", x, y, z)
	}
	rt.upstreams[1].active.Add(-5)
	for range 5 {
		b.pick(rt, nil, now).worked(true)
	}
	if _, y, _ := count(); y != 10 {
		t.Errorf("the emptiest has %d", y)
	}
	// One after the other, too, they take turns.
	seen := map[*upstream]int{}
	for range 30 {
		a := b.pick(rt, nil, now)
		seen[a.u]++
		a.worked(false)
	}
	for u, n := range seen {
		if n < 5 {
			t.Errorf("%s had %d of 30 short ones", u.url, n)
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d of 3 were used", len(seen))
	}
}

func TestBalanceOneDiesAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, rt := rigBalance(t, 3)
		dead, down := rt.upstreams[0], true
		tries := 0
		handshake := func() bool { // as dial does it
			var tried []*upstream
			for range maxTries {
				a := b.pick(rt, tried, time.Now())
				if a == nil {
					break
				}
				if a.u == dead && down {
					tries++
					tried = append(tried, a.u)
					a.failed(true, errors.New("it is down"))
					continue
				}
				a.worked(true)
				return true
			}
			return false
		}
		for range 10 * 60 {
			if !handshake() {
				t.Fatal("a handshake failed with two upstreams alive")
			}
			time.Sleep(100 * time.Millisecond)
		}
		// 3, and then a trial after 1, 2, 4, 8, 16 s, each shorter by a quarter at most.
		if tries < failuresAside+4 || tries > failuresAside+7 {
			t.Errorf("the dead one was tried %d times in a minute", tries)
		}
		down = false
		time.Sleep(pauseMax)
		before := dead.active.Load()
		for range 10 {
			handshake()
		}
		if n := dead.active.Load() - before; n != 10 {
			t.Errorf("back with the fewest connections, it got %d of 10", n)
		}
	})
}

func TestBalanceAllAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, rt := rigBalance(t, 2)
		for range failuresAside {
			for range 2 {
				b.pick(rt, nil, time.Now()).failed(true, errors.New("it is down"))
			}
		}
		x, y := b.pick(rt, nil, time.Now()), b.pick(rt, nil, time.Now())
		if x == nil || y == nil || x.u == y.u || !x.trial || !y.trial {
			t.Fatal("each is tried by one though it is aside")
		}
		for range 100 {
			if b.pick(rt, nil, time.Now()) != nil {
				t.Fatal("a second trial beside the first")
			}
		}
		x.nothing() // its client went away
		if a := b.pick(rt, nil, time.Now()); a == nil || a.u != x.u {
			t.Fatal("a trial that taught nothing blocks the next")
		} else {
			a.worked(true)
		}
		for range 100 { // everybody goes there, nobody to the other
			if a := b.pick(rt, nil, time.Now()); a == nil || a.u != x.u {
				t.Fatal("the one that is back is not used")
			}
		}
		time.Sleep(pauseMax)
		if a := b.pick(rt, nil, time.Now()); a == nil || a.u != x.u {
			t.Fatal("a trial that is under way is joined by a second")
		}
		y.failed(true, errors.New("it is down"))
		if n := y.u.active.Load(); n != 0 {
			t.Errorf("%d connections to the one that is down", n)
		}
	})
}

// Whoever knows how to get bad answers takes the upstream from nobody.
func TestBalanceBadAnswersRefuseNobody(t *testing.T) {
	b, rt := rigBalance(t, 1)
	for range 100 {
		b.pick(rt, nil, time.Now()).failed(false, errors.New("it is ill"))
	}
	for range 100 {
		if b.pick(rt, nil, time.Now()) == nil {
			t.Fatal("a handshake was refused for what others were answered")
		}
	}
}

func requestOf(u *url.URL) *http.Request { return &http.Request{Method: http.MethodGet, URL: u} }
