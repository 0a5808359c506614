//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// pick gives one of the names, by weight.
func pick(r *rand.Rand, of []choice) string {
	all := 0
	for _, c := range of {
		all += c.weight
	}
	n := r.IntN(all)
	for _, c := range of {
		if n -= c.weight; n < 0 {
			return c.name
		}
	}
	return ""
}

type choice struct {
	name   string
	weight int
}

var carriers = []choice{{"header", 3}, {"subprotocol", 3}, {"query", 3}, {"cookie", 3}, {"ticket", 3}, {"first_message", 3}, {"half a handshake", 1}}

var acts = []choice{
	{"talk", 50}, {"talk big", 6}, {"talk in fragments", 12}, {"ping", 6}, {"wait", 24}, {"stop reading", 2}, {"stop reading for good", 1},
	{"fall silent", 1}, {"refresh", 8}, {"revoke token", 1}, {"revoke session", 1}, {"revoke subject", 1}, {"logout", 1}, {"goodbye", 4},
	{"vanish", 3}, {"expire", 2}, {"upstream resets", 1}, {"upstream goes", 1}, {"upstream closes", 1}, {"both close", 1},
}

// one is one client's life, from the handshake to the end.
func (w *world) one(ctx context.Context, r *rand.Rand) {
	p := w.people[r.IntN(len(w.people))]
	l, err := w.login(p, r)
	if err != nil {
		w.found.fault("%v", err)
		return
	}
	carrier := pick(r, carriers)
	if carrier == "half a handshake" {
		w.half(r)
		return
	}
	path := fmt.Sprintf("/%s/%d", []string{"named", "session"}[r.IntN(2)], r.IntN(3))
	if carrier == "first_message" || carrier == "header" && r.IntN(2) == 0 {
		path = "/first/1"
	}
	page := ""
	if carrier == "cookie" || r.IntN(2) == 0 {
		page = origin
	}
	cred, err := w.token(l, time.Duration(r.IntN(12)+1)*time.Second, false)
	if err != nil {
		if !errors.Is(err, errGone) {
			w.found.fault("no token: %v", err)
		}
		return
	}
	c := w.newClient(r)
	dead := slices.ContainsFunc(cred.marks(), (*mark).over)
	began := time.Now()
	late := !began.Before(cred.exp)
	err = c.dial(cred, path, carrier, page)
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		if refused.upstream() && w.up.out(began, time.Now(), aside) {
			w.found.count("refused: no upstream")
			_ = pause(ctx, 100*time.Millisecond)
			return
		}
		gone := slices.ContainsFunc(cred.marks(), func(m *mark) bool { return m.begun.Load() }) || !time.Now().Before(cred.exp)
		if !gone || refused.status != http.StatusUnauthorized && refused.status != 3000 {
			w.found.fault("a handshake by %s to %s was %v", carrier, path, err)
		}
		w.found.count("refused: no longer valid")
		return
	case err != nil:
		w.found.fault("a handshake by %s to %s: %v", carrier, path, err)
		return
	case dead || late:
		w.found.fault("client %d (%s) was let in: revoked %v, expired %v", c.id, c.how, dead, late)
	}
	w.found.count("opened: " + carrier)
	last := c.live(ctx)
	if why := c.judge(c.finish()); why != "" {
		w.found.fault("client %d (%s, own %v) whose last act was %q: %s; it ended with %v at %s, %d answers missing, deadlines %v",
			c.id, c.how, p.own, last, why, c.ending, c.ending.at.Format(time.StampMilli), len(c.pending), c.deadlines)
	}
}

// half is a client that goes before its handshake is whole.
func (w *world) half(r *rand.Rand) {
	c, err := net.Dial("tcp", w.gw.addr)
	if err != nil {
		w.found.fault("%v", err)
		return
	}
	head := "GET /named/1 HTTP/1.1\r\nHost: " + w.gw.addr + "\r\nUpgrade: websocket\r\n"
	_, _ = c.Write([]byte(head[:r.IntN(len(head))]))
	if r.IntN(2) == 0 {
		reset(c)
	}
	c.Close()
	w.found.count("half handshakes")
}

// live does one thing after the other until the connection ends, and says what
// it did last.
func (c *client) live(ctx context.Context) string {
	act := ""
	for n := 0; ; n++ {
		select {
		case <-c.ended:
			return act
		default:
		}
		if act = pick(c.r, acts); n > 60 {
			act = "goodbye"
		}
		if ctx.Err() != nil {
			act = "goodbye"
		}
		err := c.act(ctx, act)
		if err != nil || c.closing != nil || c.vanished {
			return act
		}
		c.overdue()
	}
}

// overdue looks whether the connection lives although it may not.
func (c *client) overdue() {
	limit := c.until().Add(250 * time.Millisecond)
	for _, m := range c.marks() {
		if at := m.done.Load(); at != 0 && time.Unix(0, at).Before(limit) {
			limit = time.Unix(0, at)
		}
	}
	limit = limit.Add(c.w.o.slack + time.Second) // a frame under way may end; its close frame be answered
	if time.Now().Before(limit) {
		return
	}
	select {
	case <-c.ended:
	default:
		if c.unread.Load() {
			return // what came before the end is still being read
		}
		c.w.found.fault("client %d (%s) lives %v after its end", c.id, c.how, time.Since(limit))
		c.vanished = true
		reset(c.conn)
	}
}

func (c *client) act(ctx context.Context, what string) (err error) {
	r := c.r
	switch what {
	case "talk":
		for range r.IntN(6) + 1 {
			if err = c.say(cmdEcho, r.IntN(150), 1); err != nil {
				return err
			}
		}
	case "talk big":
		return c.say(cmdEcho, r.IntN(500_000), 1)
	case "talk in fragments":
		return c.say(cmdEcho, r.IntN(70_000), r.IntN(6)+2)
	case "ping":
		return c.frame(frame.AppendPing(nil, []byte("hello"), true))
	case "wait":
		c.wait(ctx, time.Duration(r.IntN(700))*time.Millisecond)
	case "expire":
		c.wait(ctx, time.Until(c.until().Add(10*time.Second)))
	case "stop reading":
		c.stopReading(time.Duration(r.IntN(1500)) * time.Millisecond)
	case "stop reading for good":
		c.stopReading(writeTimeout + 2*time.Second)
	case "fall silent":
		c.fallSilent(ctx)
	case "refresh":
		return c.refresh(ctx)
	case "revoke token", "revoke session", "revoke subject":
		cred := c.current
		if r.IntN(2) == 0 {
			cred = c.opening
		}
		c.w.revoke(context.WithoutCancel(ctx), what[len("revoke "):], cred)
		_ = c.say(cmdEcho, 10, 1) // must not come through
	case "logout":
		if c.opening.login.person.own {
			c.w.revoke(context.WithoutCancel(ctx), "logout", c.current)
			_ = c.say(cmdEcho, 10, 1)
		}
	case "goodbye":
		c.goodbye([]uint16{1000, 1001, 4000, 4999}[r.IntN(4)], []string{"", "bye"}[r.IntN(2)])
	case "vanish":
		c.vanished = true
		if r.IntN(3) == 0 { // in the middle of a frame
			b := fragments(frame.Binary, make([]byte, 1000), true, 1, r)[0]
			_ = c.frame(b[:r.IntN(len(b))])
		}
		if r.IntN(2) == 0 {
			reset(c.conn)
		} else {
			c.hangUp()
		}
	case "both close":
		c.upstreamFails.Store(true)
		if err := c.say(cmdClose, 10, 1); err != nil {
			return err
		}
		c.goodbye(1000, "both")
	case "upstream resets", "upstream goes", "upstream closes":
		c.upstreamFails.Store(true)
		if err := c.say(map[string]byte{"upstream resets": cmdReset, "upstream goes": cmdGone, "upstream closes": cmdClose}[what], 10, 1); err != nil {
			return err
		}
		c.wait(context.WithoutCancel(ctx), 5*time.Second)
	}
	if what != "talk" && what != "wait" {
		c.w.found.count("did: " + what)
	}
	return err
}

// wait waits, or until the end.
func (c *client) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.ended:
	case <-ctx.Done():
	case <-t.C:
	}
}

// stopReading asks the upstream for more than the way holds, and reads nothing
// for a while.
func (c *client) stopReading(d time.Duration) {
	c.unread.Store(true)
	c.gate.Lock()
	defer c.gate.Unlock()
	_ = c.say(cmdBurst, 10, 1)
	time.Sleep(d)
}

// fallSilent takes part in nothing any more, as a machine without a network: it
// must be found out.
func (c *client) fallSilent(ctx context.Context) {
	c.write.Lock() // no pong leaves either
	c.silent = time.Now()
	c.wait(context.WithoutCancel(ctx), idleTimeout+250*time.Millisecond+c.w.o.slack)
	c.write.Unlock()
	select {
	case <-c.ended:
	default:
		c.w.found.fault("client %d (%s) was silent for %v and still lives", c.id, c.how, time.Since(c.silent))
	}
}

// refresh moves the connection to a newer token: by its name, or in band.
func (c *client) refresh(ctx context.Context) error {
	l := c.opening.login
	if c.route == "/first/1" {
		return c.refreshInBand()
	}
	if l.person.own {
		c.maybe(time.Now().Add(ownTTL + 2*time.Second))
		cred, err := c.w.token(l, 0, true, c.cid)
		if err != nil {
			return c.gone(err)
		}
		c.moved(cred)
		return nil
	}
	cred, err := c.w.token(l, time.Duration(c.r.IntN(12)+1)*time.Second, true)
	if err != nil {
		return err
	}
	c.maybe(cred.exp)
	var out struct{ Extended []string }
	status, err := c.w.post("/auth/extend", map[string]any{"connections": []string{c.cid}}, cred.raw, &out)
	switch {
	case err != nil:
		c.w.found.fault("extend: %v", err)
	case status == http.StatusOK && slices.Contains(out.Extended, c.cid):
		c.moved(cred)
	case status != http.StatusOK && status != http.StatusUnauthorized && status != http.StatusForbidden:
		c.w.found.fault("extend answered %d", status)
	}
	return nil
}

func (c *client) refreshInBand() error {
	cred, err := c.w.token(c.opening.login, time.Duration(c.r.IntN(12)+1)*time.Second, false)
	if err != nil {
		return c.gone(err)
	}
	c.maybe(cred.exp)
	text, _ := json.Marshal(map[string]string{"wsbouncer": "refresh", "token": cred.raw})
	for len(c.inBand) > 0 {
		<-c.inBand
	}
	if err := c.frame(frame.Append(nil, frame.Text, text, true)); err != nil {
		return err
	}
	t := time.NewTimer(10 * time.Second)
	defer t.Stop()
	select {
	case got := <-c.inBand:
		if got == "ok" {
			c.moved(cred)
		}
		c.w.found.count("in band: " + got)
	case <-c.ended:
	case <-t.C:
		c.w.found.fault("client %d (%s): no answer to a refresh in band", c.id, c.how)
	}
	return nil
}

// gone drops an error that means that somebody ended the session.
func (c *client) gone(err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// moved notes that cred is in force, if it moved the deadline: a connection is
// never shortened.
func (c *client) moved(cred *credential) {
	select {
	case <-c.ended:
		return
	default:
	}
	c.mu.Lock()
	held := c.deadlines[len(c.deadlines)-1].exp
	c.mu.Unlock()
	if cred.exp.After(held) {
		c.current = cred
		c.confirm(cred.exp)
		c.w.found.count("moved to a newer token")
	}
}

// judge says what is wrong with how it ended; "" when it could.
func (c *client) judge(e ending) string {
	c.mu.Lock()
	missing := len(c.pending)
	c.mu.Unlock()
	begun := func(ms ...*mark) bool { return slices.ContainsFunc(ms, func(m *mark) bool { return m.begun.Load() }) }
	o := c.opening
	failed := c.upstreamFails.Load() || c.w.up.out(e.at, e.at, time.Second)
	c.w.found.count("ended: " + kind(e, c))
	switch {
	case errors.Is(e.err, errIllegal):
		return e.err.Error()
	case c.vanished, c.unread.Load():
		return ""
	case e.err != nil:
		// In the middle of a frame there can be no close frame.
		if failed || (missing > 0 || c.in.partial()) && (begun(c.marks()...) || !e.at.Before(c.deadlines[0].exp)) {
			return ""
		}
		return "no close frame"
	case e.code == 3000 && e.text == "token_expired":
		if c.early(e) {
			return "closed before the deadline"
		}
		late := e.at.Sub(c.until())
		if !c.shared() && late > 250*time.Millisecond+c.w.o.slack {
			return fmt.Sprintf("closed %v after the deadline", late)
		}
		if len(c.deadlines) == 1 && c.until().Equal(c.deadlines[0].exp) {
			c.w.found.expiredLate(late)
		}
		return ""
	case e.code == 3000 && e.text == "token_revoked":
		if begun(o.token, c.current.token) || c.shared() && o.login.revoked.Load() {
			return ""
		}
	case e.code == 3000 && (e.text == "session_revoked" || e.text == "logged_out"):
		if begun(o.login.session) {
			return ""
		}
	case e.code == 3000 && e.text == "subject_revoked":
		if begun(o.login.subject) {
			return ""
		}
	case e.code == 1001 && e.text == "idle":
		if !c.silent.IsZero() && e.at.Sub(c.silent) > idleTimeout/2 {
			return ""
		}
	case c.closing != nil && e.code == c.closing.code && e.text == c.closing.text:
		// Whatever it had said before was answered before its goodbye was, unless
		// the answer took so long that nobody waited for it.
		if missing > 0 && !failed && e.at.Sub(c.closing.at) < 500*time.Millisecond {
			return "messages are lost"
		}
		return ""
	case failed && e.code == ownCode && e.text == ownText:
		if missing > 0 {
			return "messages are lost"
		}
		return ""
	case failed && e.code == 1013 && e.text == "upstream_gone":
		return ""
	}
	return "nothing that happened to it explains this end"
}

func kind(e ending, c *client) string {
	switch {
	case c.vanished:
		return "vanished"
	case e.err != nil:
		return "without a close frame"
	case c.closing != nil && e.code == c.closing.code:
		return "goodbye"
	}
	return fmt.Sprintf("%d %s", e.code, e.text)
}
