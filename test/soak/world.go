//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

// world is everybody around the gateway.
type world struct {
	o      options
	gw     *gateway
	up     *upstream
	found  *findings
	http   *http.Client
	people []*person
	ids    atomic.Uint64
	here   sync.Map // id → *client
}

func newWorld(o options, gw *gateway, up *upstream, found *findings) *world {
	w := &world{o: o, gw: gw, up: up, found: found}
	w.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: gw.tls}}
	up.known = w.client
	return w
}

func (w *world) client(id uint64) *client {
	c, _ := w.here.Load(id)
	cl, _ := c.(*client)
	return cl
}

// mark is something that can be revoked: a token, a session, a subject.
type mark struct {
	value string
	begun atomic.Bool  // somebody asked for it
	done  atomic.Int64 // when the asking returned, Unix nanoseconds; zero: not yet
}

// over reports whether the revocation had returned.
func (m *mark) over() bool { return m.done.Load() != 0 }

// person is a subject, of our issuer or of the trusted one.
type person struct {
	own            bool
	name, password string

	mu      sync.RWMutex // held for writing while the subject is revoked
	subject *mark
	logins  [3]*login
	round   int
}

// login is one session.
type login struct {
	person  *person
	subject *mark
	session *mark
	revoked atomic.Bool  // one of its tokens
	latest  atomic.Int64 // the end of its longest token, Unix nanoseconds

	mu      sync.Mutex // our issuer's: while it refreshes
	refresh string
	access  *credential
}

func (l *login) dead() bool { return l.subject.begun.Load() || l.session.begun.Load() }

// credential is an access token.
type credential struct {
	login *login
	raw   string
	token *mark
	exp   time.Time
}

func (c *credential) marks() []*mark { return []*mark{c.token, c.login.session, c.login.subject} }

func (c *credential) issuer() string {
	if c.login.person.own {
		return ""
	}
	return foreignIssuer
}

// open makes the people, and does once whatever makes the program open things
// that it keeps.
func (w *world) open(ctx context.Context) error {
	for i := range 30 {
		p := &person{name: fmt.Sprintf("p%d", i), own: i < 5}
		if p.own {
			p.password = fmt.Sprintf("quartz %d lantern 47 drizzle", i)
			if _, err := w.gw.client.AddUser(ctx, adminapi.AddUserRequest{Name: p.name, Password: p.password, Scopes: []string{"chat"}}); err != nil {
				return err
			}
		}
		p.renew()
		w.people = append(w.people, p)
	}
	// Every reader of the database, and one life of every kind.
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() { w.one(ctx, rand.New(rand.NewPCG(w.o.seed, uint64(i)))) })
	}
	wg.Wait()
	return ctx.Err()
}

// renew makes a new subject of a person; its old one is revoked. Our issuer's
// keeps its name: what it gets from now on is newer than the revocation.
func (p *person) renew() {
	p.round++
	name := p.name
	if !p.own {
		name = fmt.Sprintf("%s-%d", p.name, p.round)
	}
	p.subject, p.logins = &mark{value: name}, [3]*login{}
}

// login gives a live session of the person.
func (w *world) login(p *person, r *rand.Rand) (*login, error) {
	p.mu.Lock()
	i := r.IntN(len(p.logins))
	l := p.logins[i]
	if l == nil || l.dead() {
		l = &login{person: p, subject: p.subject, session: &mark{value: fmt.Sprintf("s%d", w.ids.Add(1))}}
		p.logins[i] = l
	}
	p.mu.Unlock()
	return l, nil
}

// token gives a good token of a session: a new one of the trusted issuer, or
// the newest of ours. connections are moved to it if it is a new one of ours.
func (w *world) token(l *login, ttl time.Duration, fresh bool, connections ...string) (*credential, error) {
	if !l.person.own {
		now := time.Now()
		exp := now.Add(ttl).Truncate(time.Second).Add(time.Second)
		c := &credential{login: l, token: &mark{value: fmt.Sprintf("t%d", w.ids.Add(1))}, exp: exp}
		var err error
		c.raw, err = jwt.Signed(w.gw.signer).Claims(map[string]any{
			"iss": foreignIssuer, "aud": "chat", "sub": l.subject.value, "sid": l.session.value, "jti": c.token.value,
			"iat": now.Unix(), "exp": exp.Unix(), "client_id": "app", "scope": "chat",
		}).Serialize()
		l.grow(exp)
		return c, err
	}
	l.person.mu.RLock() // no revocation of the subject meanwhile
	defer l.person.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.access != nil && !fresh && time.Until(l.access.exp) > time.Second {
		return l.access, nil
	}
	if l.dead() {
		return nil, errGone
	}
	var answer struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Session string `json:"session_id"`
	}
	l.grow(time.Now().Add(ownTTL + 2*time.Second)) // its connections of this session may be moved before the answer is here
	var status int
	var err error
	if l.refresh == "" {
		status, err = w.post("/auth/login", map[string]any{"username": l.person.name, "password": l.person.password}, "", &answer)
	} else {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.refresh}, "connection": connections}
		status, err = w.post("/auth/token", form, "", &answer)
	}
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		if !l.dead() {
			w.found.fault("a login or refresh of %s was refused with %d", l.person.name, status)
		}
		return nil, errGone
	}
	if l.refresh == "" {
		l.session.value = answer.Session
	}
	l.refresh = answer.Refresh
	c := &credential{login: l, raw: answer.Access}
	if c.token, c.exp, err = inspect(answer.Access); err != nil {
		return nil, err
	}
	l.grow(c.exp)
	l.access = c
	return c, nil
}

var errGone = fmt.Errorf("the session has ended")

func (l *login) grow(exp time.Time) {
	for at := exp.UnixNano(); ; {
		old := l.latest.Load()
		if old >= at || l.latest.CompareAndSwap(old, at) {
			return
		}
	}
}

func inspect(raw string) (*mark, time.Time, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, time.Time{}, fmt.Errorf("no token: %q", raw)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		ID  string `json:"jti"`
		Exp int64  `json:"exp"`
	}
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	return &mark{value: claims.ID}, time.Unix(claims.Exp, 0), err
}

// post calls the public API.
func (w *world) post(path string, body any, bearer string, out any, lines ...string) (int, error) {
	var raw []byte
	contentType := "application/json"
	if form, ok := body.(url.Values); ok {
		raw, contentType = []byte(form.Encode()), "application/x-www-form-urlencoded"
	} else if body != nil {
		raw, _ = json.Marshal(body)
	}
	req, err := http.NewRequest(http.MethodPost, w.gw.url()+path, bytes.NewReader(raw))
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Set(name, value)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if raw, err = io.ReadAll(res.Body); err == nil && res.StatusCode == http.StatusOK && out != nil {
		err = json.Unmarshal(raw, out)
	}
	return res.StatusCode, err
}

// revoke revokes by the admin socket, or by logging out.
func (w *world) revoke(ctx context.Context, kind string, c *credential) {
	l := c.login
	m := map[string]*mark{"token": c.token, "session": l.session, "logout": l.session, "subject": l.subject}[kind]
	if kind == "subject" {
		l.person.mu.Lock()
		defer l.person.mu.Unlock()
		if l.person.subject != m {
			return // somebody else's turn came first
		}
	}
	if l.person.own && kind == "session" { // its name is known after the login
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	m.begun.Store(true)
	if kind == "token" {
		l.revoked.Store(true)
	}
	var err error
	if kind == "logout" {
		var status int
		status, err = w.post("/auth/logout", nil, c.raw, nil)
		if err == nil && status >= 400 && status != http.StatusUnauthorized { // revoked or expired meanwhile
			err = fmt.Errorf("status %d", status)
		}
		if status == http.StatusUnauthorized {
			w.found.count("logouts too late")
			return
		}
	} else {
		_, err = w.gw.client.Revoke(ctx, adminapi.RevokeRequest{Kind: kind, Issuer: c.issuer(), Value: m.value})
	}
	if err != nil {
		if ctx.Err() == nil {
			w.found.fault("revoking a %s: %v", kind, err)
		}
		return
	}
	m.done.Store(time.Now().UnixNano())
	if kind == "subject" {
		l.person.renew()
	}
	w.found.count("revoked: " + kind)
}

// live lets clients come and go for a while, under an operator and an upstream
// that do what they do. When it returns all clients are gone.
func (w *world) live(ctx context.Context, d time.Duration) error {
	over, stop := context.WithTimeout(ctx, d)
	defer stop()
	var all sync.WaitGroup
	for i := range w.o.clients {
		all.Go(func() {
			r := rand.New(rand.NewPCG(w.o.seed, 1000+uint64(i)))
			for over.Err() == nil {
				w.one(over, r)
			}
		})
	}
	all.Go(func() {
		for n := 1; pause(over, time.Second) == nil; n++ {
			w.reload(ctx, n)
		}
		w.reload(ctx, 0)
	})
	all.Go(func() {
		for n := 1; pause(over, 2500*time.Millisecond) == nil; n++ {
			if n%3 != 0 {
				w.up.fail(8)
			} else if err := w.up.restart(ctx, 300*time.Millisecond); err != nil {
				w.found.fault("%v", err)
			}
		}
	})
	all.Wait()
	return ctx.Err()
}

// reload changes the configuration in a way that touches no live connection, or
// breaks it, and waits until the log says that it was read.
func (w *world) reload(ctx context.Context, n int) {
	more := [...]string{
		"", "  - {path: /more, upstream: \"ws://UP\", scopes: [other]}", "  - {path: /more, upstream: \"ws://UP\"}\n  - {path: \"/most/{n}\", upstream: \"ws://UP\"}", "orgins: []",
	}[n%4]
	before := w.gw.reload.Load()
	if err := w.gw.write(more); err != nil {
		w.found.fault("%v", err)
		return
	}
	_ = w.gw.cmd.Process.Signal(syscall.SIGHUP)
	for begin := time.Now(); w.gw.reload.Load() == before; {
		if time.Since(begin) > 20*time.Second {
			w.found.fault("no reload after SIGHUP")
			return
		}
		if pause(ctx, 5*time.Millisecond) != nil {
			return
		}
	}
	w.found.count("reloads")
}

// burst opens many connections at once, and lets them go: half say goodbye, half
// vanish.
func (w *world) burst(ctx context.Context, n int) error {
	p := &person{name: "crowd"}
	p.renew()
	l := &login{person: p, subject: p.subject, session: &mark{value: "crowd"}}
	clients := make([]*client, n)
	var next atomic.Int64
	var all sync.WaitGroup
	each := func(f func(i int)) {
		next.Store(0)
		for range 16 {
			all.Go(func() {
				for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
					f(i)
				}
			})
		}
		all.Wait()
	}
	each(func(i int) {
		c := w.newClient(rand.New(rand.NewPCG(w.o.seed, uint64(i))))
		cred, err := w.token(l, time.Hour, true)
		if err == nil {
			err = c.dial(cred, "/named/1", "header", "")
		}
		if err != nil {
			w.found.fault("connection %d of a burst: %v", i, err)
			return
		}
		clients[i] = c
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	most, err := w.gw.holds(ctx)
	if err != nil {
		return err
	}
	w.found.say("at the height of it:  %v", most)
	each(func(i int) {
		c := clients[i]
		if c == nil {
			return
		}
		if i%2 == 0 {
			c.goodbye(1000, "")
			if e := c.finish(); e.err != nil || e.code != 1000 {
				w.found.fault("a goodbye in a burst ended with %v", e)
			}
			return
		}
		reset(c.conn)
		c.leave()
	})
	return ctx.Err()
}
