package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/acme"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
	"github.com/wsbouncer/wsbouncer/internal/telemetry"
	"github.com/wsbouncer/wsbouncer/token"
)

// Options are what a program is made of.
type Options struct {
	Config *config.Config
	// Warnings are of what is insecure in Config.
	Warnings config.Problems
	Version  string
	Log      *slog.Logger
	// Load reads the configuration anew; nil: reloading is refused.
	Load func() (*config.Config, config.Problems, error)
	// Listener, when set, is used instead of opening Config.Listen.
	Listener net.Listener
	// Page, when set, answers paths that no route has.
	Page http.Handler
	// Ready is called when everything answers.
	Ready func(*App)
}

// App is the program while it runs.
type App struct {
	o       Options
	log     *slog.Logger
	started time.Time
	data    *dataFolder
	store   *sqlite.Store
	ring    *token.Ring
	trust   *token.Verifier
	proofs  *token.ProofChecker
	fetch   fetchers
	session *session.Service
	account *account.Service // nil without an issuer
	login   *login.Service   // nil without an issuer
	bouncer *wsbouncer.Bouncer
	gateway *gateway.Gateway
	loops   *relay.Loops // nil: goroutines relay
	watch   *observer
	peers   *httpx.Peers
	cookies httpx.Cookies
	events  audit.Sink
	heard   *secevent.Receiver
	cert    *certificate
	clients authapi.Clients
	files   *descriptors
	acme    *acme.Manager // nil: the certificate is in files

	admin    http.Handler
	public   http.Handler
	ready    atomic.Bool
	addr     net.Addr
	reloadMu sync.Mutex
	current  atomic.Pointer[config.Config]
	warnings atomic.Pointer[config.Problems]
}

// Logger is the program's log: JSON lines, or text on a terminal, secrets
// redacted.
func Logger(w io.Writer) *slog.Logger {
	return telemetry.NewLogger(w, telemetry.Options{Text: telemetry.IsTerminal(w)})
}

// GoVersion is what the program was built with.
func GoVersion() string { return runtime.Version() }

// open builds everything except listeners. On an error nothing stays open.
func open(ctx context.Context, o Options) (_ *App, err error) {
	p, problems := newPlan(o.Config, nil)
	if len(problems) > 0 {
		return nil, problems
	}
	c := o.Config
	a := &App{o: o, log: o.Log, started: time.Now(), cert: p.cert, files: newDescriptors(), peers: httpx.NewPeers(c.ProxyPrefixes()), watch: newObserver(o.Log)}
	a.inForce(c, o.Warnings)
	if a.data, err = openData(c.Data); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	a.clients.Set(p.clients)
	a.openACME(p)
	if a.store, err = a.data.openStore(ctx); err != nil {
		return nil, err
	}
	if err = a.openIssuer(p); err != nil {
		return nil, err
	}
	if err = a.openBouncer(ctx, p); err != nil {
		return nil, err
	}
	return a, a.openHandlers(p)
}
