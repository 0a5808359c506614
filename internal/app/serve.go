package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/front"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// Serve runs the program until ctx ends, then drains and returns nil.
func Serve(ctx context.Context, o Options) error {
	a, err := open(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(a.run(ctx), a.Close())
}

// Servers' own bounds. The handshake's come from the configuration.
const (
	apiWriteTimeout  = 30 * time.Second
	keepAliveTimeout = 60 * time.Second
	stopTimeout      = 5 * time.Second
	pruneInterval    = 10 * time.Minute
)

func (a *App) run(ctx context.Context) error {
	c := a.o.Config
	public := a.o.Listener
	if public == nil {
		var err error
		if public, err = listenPublic(ctx, c.Listen); err != nil {
			return err
		}
	}
	a.addr = public.Addr()
	admin, err := listenAdmin(ctx, a.data.file(socketFile))
	if err != nil {
		public.Close()
		return err
	}
	tcp, _ := public.(*net.TCPListener)
	accept := &frugal{Listener: public, files: a.files, log: a.log}
	public = accept
	if c.ProxyProtocol {
		public = httpx.ListenBehindProxies(public, a.peers, a.watch.proxyRefused)
	}
	callers := newCallers(a.peers, c.Limits.ConnectionsPerIP)
	publicServer := a.server(a.public)
	publicServer.MaxHeaderBytes = int(c.Limits.HeaderBytes)
	publicServer.ConnState = callers.state
	handshakes := func(context.Context) error { return nil }
	switch {
	case a.cert != nil:
		public = tls.NewListener(public, tlsConfig(c.TLS, a.cert, a.acme))
	case tcp != nil && a.loops != nil && !c.ProxyProtocol:
		f := a.front(tcp, accept, callers)
		handshakes = func(ctx context.Context) error { return f.Serve(ctx, tcp) }
		public = f.Rest()
	}
	adminServer := a.server(a.admin)

	// Background work ends after the connections, which need it.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var owned sync.WaitGroup
	failed := make(chan error, 8)
	own := func(what string, f func(context.Context) error) {
		owned.Go(func() {
			if err := f(background); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	accepting, stopAccepting := context.WithCancel(background)
	defer stopAccepting()
	own("trusted issuers' keys", a.fetch.run)
	own("introspection", a.recheck)
	own("handshakes", func(context.Context) error { return handshakes(accepting) })
	own("public listener", func(context.Context) error { return publicServer.Serve(public) })
	own("admin socket", func(context.Context) error { return adminServer.Serve(admin) })
	own("refusal log", a.watch.refusals.Run)
	own("connection log", a.watch.connections.Run)
	own("gateway", a.gateway.Run)
	own("pruning", a.prune)
	own("memory", a.newMemory().run)
	if a.cert != nil {
		own("certificate", func(ctx context.Context) error { return a.cert.watch(ctx, a.log) })
	}
	if a.acme != nil {
		own("certificates by ACME", a.acme.Run)
	}
	if a.ring != nil {
		own("signing keys", a.ring.Run)
	}
	own("signals", a.reloadOnHangup)

	a.ready.Store(true)
	a.log.Info("ready", "public", a.addr.String(), "admin", a.data.file(socketFile), "public_url", c.PublicURL.String(), "version", a.o.Version,
		"descriptors", a.files.limit)
	if a.o.Ready != nil {
		a.o.Ready(a)
	}
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
		a.log.Error("stopping", "error", cause)
	}
	a.stop(stopAccepting, publicServer, adminServer)
	stopBackground()
	owned.Wait()
	return cause
}

// stop is the ordered end: not ready, no new connections, live ones told to
// come back elsewhere, then the listeners.
func (a *App) stop(stopAccepting func(), servers ...*http.Server) {
	drain := a.current.Load().Drain.D()
	a.ready.Store(false)
	a.log.Info("draining", "over", drain.String())
	ctx, cancel := context.WithTimeout(context.Background(), drain+stopTimeout)
	defer cancel()
	if err := a.bouncer.Shutdown(ctx, drain); err != nil {
		a.log.Warn("connections were cut", "error", err)
	}
	stopAccepting()
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
		}
	}
}

// front reads handshakes of plain TCP on the relay's loops.
func (a *App) front(l *net.TCPListener, accept *frugal, callers *callers) *front.Front {
	limits := a.o.Config.Limits
	return front.New(l.Addr(), front.Options{
		Loops: a.loops, Handler: a.public, MaxHead: int(limits.HeaderBytes),
		Patience: limits.HandshakeTimeout.D(), WriteTimeout: apiWriteTimeout,
		Enter: func(addr netip.Addr, descriptor int) bool {
			return accept.takes(a.files.spares(descriptor)) && callers.enter(addr)
		},
		Leave: callers.leave, Failed: accept.failed, Log: a.log,
	})
}

func (a *App) server(h http.Handler) *http.Server {
	timeout := a.o.Config.Limits.HandshakeTimeout.D()
	return &http.Server{
		Handler:           httpx.LastOfConnection(h),
		ReadHeaderTimeout: timeout,
		ReadTimeout:       timeout,
		WriteTimeout:      apiWriteTimeout,
		IdleTimeout:       keepAliveTimeout,
		ErrorLog:          slog.NewLogLogger(quiet{a.watch}, slog.LevelDebug),
	}
}

// quiet takes net/http's own complaints, which strangers can cause at will, at
// debug level and within the bound of refusals. A panic in a handler, which it
// tells on the same way, is a fault of this program.
type quiet struct{ o *observer }

func (q quiet) Enabled(context.Context, slog.Level) bool { return true }
func (q quiet) WithAttrs([]slog.Attr) slog.Handler       { return q }
func (q quiet) WithGroup(string) slog.Handler            { return q }
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "http: panic serving") || strings.HasPrefix(r.Message, "http2: panic serving") {
		q.o.refusals.Log(ctx, slog.LevelError, "panic", "panic in a handler", slog.String("what", r.Message))
		return nil
	}
	q.o.refusals.Log(ctx, slog.LevelDebug, "http", "connection refused by net/http", slog.String("why", r.Message))
	return nil
}

// prune forgets what can no longer matter.
func (a *App) prune(ctx context.Context) error {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if err := a.session.Prune(ctx, now); err != nil && ctx.Err() == nil {
				a.log.Error("pruning the database", "error", err)
			}
		}
	}
}

func (a *App) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			_ = a.Reload() // logged there
		}
	}
}

// Reload loads the configuration and the certificate anew. A bad one is
// reported and changes nothing.
func (a *App) Reload() error {
	a.reloadMu.Lock()
	defer a.reloadMu.Unlock()
	err := a.reload()
	if err != nil {
		a.log.Error("reload refused; nothing changed", "error", err)
		return err
	}
	a.log.Info("reloaded")
	return nil
}

func (a *App) reload() error {
	if a.o.Load == nil {
		return errors.New("this server has no configuration file to load anew")
	}
	c, warnings, err := a.o.Load()
	if err != nil {
		return err
	}
	p, problems := newPlan(c, nil)
	if problems = append(problems, needsRestart(a.current.Load(), c)...); len(problems) > 0 {
		return problems
	}
	// What can fail comes first: half of a configuration is none.
	settle, taken := a.fetch.replace(a, p), false
	defer func() { settle(taken) }()
	if err := a.trust.SetIssuers(a.issuers(p)); err != nil {
		return err
	}
	if err := a.gateway.SetRoutes(p.routes); err != nil { // newPlan has tried them
		return err
	}
	a.clients.Set(p.clients)
	if a.login != nil {
		a.login.SetProviders(p.providers)
	}
	if a.cert != nil {
		a.cert.replace(p.cert)
	}
	a.heard.Set(p.logout, p.transmitters)
	a.inForce(c, warnings)
	taken = true
	a.review()
	return nil
}

// inForce notes the configuration, and says loudly what in it is insecure.
func (a *App) inForce(c *config.Config, warnings config.Problems) {
	a.current.Store(c)
	a.warnings.Store(&warnings)
	for _, w := range warnings {
		a.log.Warn("insecure setting", "where", w.Path, "warning", w.Message)
	}
}

// Addr is where the public listener is, once Ready was called.
func (a *App) Addr() net.Addr { return a.addr }

// Close closes what open opened.
func (a *App) Close() error {
	var errs []error
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	if a.data != nil {
		errs = append(errs, a.data.Close())
	}
	return errors.Join(errs...)
}

// needsRestart names what cannot change in a running program, so that a reload
// never takes half of a configuration.
func needsRestart(old, c *config.Config) config.Problems {
	var ps config.Problems
	fixed := func(path string, same bool) {
		if !same {
			ps = append(ps, c.At(path, "this changes only with a restart"))
		}
	}
	fixed("listen", old.Listen == c.Listen)
	fixed("relay", old.Relay == c.Relay)
	fixed("proxy_protocol", old.ProxyProtocol == c.ProxyProtocol)
	fixed("public_url", old.PublicURL.String() == c.PublicURL.String())
	fixed("data", old.Data == c.Data)
	fixed("auth_path", old.AuthPath == c.AuthPath)
	fixed("cookies", old.Cookies == c.Cookies)
	fixed("tls", (old.TLS == nil) == (c.TLS == nil))
	fixed("tls.cert", reflect.DeepEqual(old.TLS, c.TLS))
	fixed("issuer", (old.Issuer == nil) == (c.Issuer == nil))
	fixed("issuer", old.Issuer == nil || c.Issuer == nil || *old.Issuer == *c.Issuer)
	fixed("login", sameLogins(old, c))
	fixed("limits", old.Limits == c.Limits)
	fixed("origins", slices.Equal(old.OriginList(), c.OriginList()))
	fixed("hosts", slices.Equal(old.HostList(), c.HostList()))
	fixed("trusted_proxies", slices.Equal(old.ProxyPrefixes(), c.ProxyPrefixes()))
	return ps
}
