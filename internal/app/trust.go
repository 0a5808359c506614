package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/token"
)

// remote is a trusted issuer whose keys are fetched.
type remote struct {
	issuer, from string
	keys         *token.Remote
	tell         *teller
	stop         context.CancelFunc // once it runs
}

// teller is what a fetcher reports to; a plan is made before there is anybody.
type teller struct{ to atomic.Pointer[App] }

type remotes []*remote

// add makes the fetcher of a trusted issuer's keys. It fetches nothing yet.
func (rs *remotes) add(t *config.Trust) (token.KeySet, error) {
	return rs.addFor(t.Issuer, t.Algorithms, &t.Keys, nil)
}

// addFor is add for any issuer. roots are whose its certificate must be; nil: the
// system's.
func (rs *remotes) addFor(issuer string, algorithms []string, k *config.TrustKeys, roots *x509.CertPool) (token.KeySet, error) {
	r := &remote{issuer: issuer, from: k.URL, tell: new(teller)}
	if r.from == "" {
		r.from = "discovery"
	}
	o := token.RemoteOptions{
		Issuer: issuer, URL: k.URL, Algorithms: algorithms,
		Refresh: k.Refresh.D(), RefetchMin: k.RefetchMin.D(), MaxStale: k.MaxStale.D(),
		Observe: r.tell.fetched, Changed: r.tell.changed,
	}
	if roots != nil {
		o.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	}
	var err error
	if r.keys, err = token.NewRemote(o); err != nil {
		return nil, err
	}
	*rs = append(*rs, r)
	return r.keys, nil
}

func (t *teller) fetched(f token.Fetch) {
	a := t.to.Load()
	if a == nil {
		return
	}
	attrs := []any{slog.String("issuer", f.Issuer), slog.Float64("ms", float64(f.Duration.Microseconds())/1000)}
	switch {
	case f.Err != nil:
		a.log.Warn("an issuer's keys could not be fetched; those from before stay until max_stale", append(attrs, "error", f.Err)...)
	case f.Changed:
		a.log.Info("an issuer's keys have changed", attrs...)
	default:
		a.log.Debug("an issuer's keys were fetched", attrs...)
	}
}

func (t *teller) changed() {
	if a := t.to.Load(); a != nil {
		a.review()
	}
}

// review ends what lives by a key or an issuer that is not trusted any more.
func (a *App) review() {
	if n := a.bouncer.Review(); n > 0 {
		a.log.Info("connections ended: their issuer or its key is trusted no more", "closed", n)
	}
}

// fetchers run the remotes of the configuration in force.
type fetchers struct {
	mu  sync.Mutex
	now remotes
	ask *asked
	ctx context.Context // while run runs //nolint:containedctx // theirs is the program's, not a call's
	all sync.WaitGroup
}

// plan takes the first configuration's.
func (f *fetchers) plan(a *App, p *plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now, f.ask = p.remotes, p.asked
	for _, r := range f.now {
		r.tell.to.Store(a)
	}
	if f.ask != nil {
		f.ask.tell.to.Store(a)
	}
}

// run fetches until ctx ends, and waits for every fetcher.
func (f *fetchers) run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	for _, r := range f.now {
		f.start(r)
	}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.ctx = nil // nothing starts any more
	f.mu.Unlock()
	f.all.Wait()
	return nil
}

// start runs r. It is called with mu held, and before all is waited for.
func (f *fetchers) start(r *remote) {
	ctx, stop := context.WithCancel(f.ctx)
	r.stop = stop
	f.all.Go(func() { _ = r.keys.Run(ctx) })
}

// replace starts a new configuration's fetchers with what the old ones know, and
// waits for the first answers of those that know nothing, so that a change of
// addresses refuses nobody. settle ends the old ones, or the new ones if the
// configuration was not taken after all.
func (f *fetchers) replace(a *App, p *plan) (settle func(taken bool)) {
	fresh, ctx := f.startAll(a, p)
	for _, r := range fresh {
		r.keys.Tried(ctx) // bounded by its time-out
	}
	return func(taken bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		over, unasked := p.remotes, p.asked
		if taken {
			over, unasked, f.now, f.ask = f.now, f.ask, p.remotes, p.asked
		}
		if unasked != nil {
			unasked.tokens.Close()
		}
		for _, r := range over {
			if r.stop != nil {
				r.stop()
			}
		}
		for _, r := range f.now {
			if r.stop == nil && f.ctx != nil { // run began meanwhile
				f.start(r)
			}
		}
	}
}

// startAll returns those that have no keys yet.
func (f *fetchers) startAll(a *App, p *plan) (fresh remotes, ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := p.asked; n != nil {
		n.tell.to.Store(a)
		if f.ask != nil && f.ask.issuer == n.issuer {
			n.tokens.Inherit(f.ask.tokens)
		}
	}
	for _, r := range p.remotes {
		r.tell.to.Store(a)
		known := false
		for _, old := range f.now {
			known = known || old.issuer == r.issuer && r.keys.Inherit(old.keys)
		}
		if f.ctx == nil {
			continue // not running yet, or not any more
		}
		if !known {
			fresh = append(fresh, r)
		}
		f.start(r)
	}
	return fresh, f.ctx
}

func (f *fetchers) list() remotes {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// anyKeys says why no token at all could be verified: each issuer's keys are
// fetched, and none has come. Otherwise the others are served, and the tokens
// of the one that lacks keys are refused as not_ready.
func (a *App) anyKeys() error {
	rs := a.fetch.list()
	c := a.current.Load()
	if c.Issuer != nil || slices.ContainsFunc(c.Trust, func(t config.Trust) bool { return !t.Keys.Discovery && t.Keys.URL == "" }) {
		return nil
	}
	for _, r := range rs {
		if !slices.ContainsFunc(c.Trust, func(t config.Trust) bool { return t.Issuer == r.issuer }) {
			continue // of a party whose events are taken
		}
		if s := r.keys.Status(); !s.Fetched.IsZero() && !s.Stale {
			return nil
		}
	}
	return errors.New("no trusted issuer's keys are known")
}

// trustStatus is how each issuer's fetched keys stand.
func (a *App) trustStatus() (out []adminapi.Trust) {
	for _, r := range a.fetch.list() {
		s := r.keys.Status()
		t := adminapi.Trust{Issuer: r.issuer, From: r.from, State: "ok", Keys: s.Keys, Fetched: moment(s.Fetched), Fetches: s.Fetches, Failures: s.Failures}
		if s.Err != nil {
			t.State, t.Error = "failing", s.Err.Error()
		}
		switch {
		case s.Stale:
			t.State = "stale"
		case s.Fetched.IsZero():
			t.State = "not_ready"
		}
		out = append(out, t)
	}
	if n := a.fetch.asked(); n != nil {
		s := n.tokens.Status()
		t := adminapi.Trust{Issuer: n.issuer, From: "introspection", State: "ok", Keys: s.Keys, Fetched: moment(s.Fetched), Fetches: s.Fetches, Failures: s.Failures}
		if s.Err != nil {
			t.State, t.Error = "failing", s.Err.Error()
		}
		out = append(out, t)
	}
	return out
}
