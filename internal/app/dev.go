package app

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/demo"
)

// DevOptions are the flags of wsbouncer dev.
type DevOptions struct {
	Upstream                   string // your server instead of the demo chat
	TrustSecretFile            string // HS256 tokens made with it are accepted too
	TrustJWKS                  string // or tokens of these keys
	TrustIssuer, TrustAudience string
	Listen                     string
	InsecureHTTP               bool
	Data                       string // empty: a temporary folder, removed at the end
	Version                    string
	Log                        *slog.Logger
	Out                        io.Writer
}

// What the development setup is made of.
const (
	devTokenLife = 30 * time.Second // short, so that one sees a refresh
	devPorts     = 50               // how many ports are tried when one is taken
	devScopes    = "chat"
)

var devUsers = []string{"ann", "bob"}

// Dev runs the whole product on embedded defaults until ctx ends.
func Dev(ctx context.Context, o DevOptions) error {
	public, err := devListener(ctx, o)
	if err != nil {
		return err
	}
	defer public.Close()
	if o.Data == "" {
		dir, err := os.MkdirTemp("", "wsbouncer-dev-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.Data = dir
	}
	cfg, origins, err := devConfig(o, public.Addr().(*net.TCPAddr))
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var chat sync.WaitGroup
	defer chat.Wait()
	defer cancel()
	if o.Upstream == "" {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("the demo chat's listener: %w", err)
		}
		o.Upstream = "ws://" + l.Addr().String()
		// The chat outlives the gateway's drain, so that close frames reach it.
		chatCtx, stopChat := context.WithCancel(context.WithoutCancel(ctx))
		defer stopChat()
		chat.Go(func() {
			if err := demo.Serve(chatCtx, l, o.Log); err != nil && chatCtx.Err() == nil {
				o.Log.Error("the demo chat stopped", "error", err)
				cancel()
			}
		})
		cfg.Routes = []config.Route{devRoute("/chat/{room}", o.Upstream)}
		cfg.Routes[0].Scopes = []string{devScopes}
	} else {
		u, err := url.Parse(o.Upstream)
		if err != nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
			return fmt.Errorf("--upstream %q is not a ws:// or wss:// address", o.Upstream)
		}
		cfg.Routes = []config.Route{devRoute("/{path...}", o.Upstream)}
	}
	warnings, err := cfg.Complete()
	if err != nil {
		return err
	}
	d := &devPage{}
	app, err := open(ctx, Options{Config: cfg, Warnings: warnings, Version: o.Version, Log: o.Log, Listener: public, Page: d})
	if err != nil {
		return err
	}
	users, err := app.devUsers(ctx, origins)
	if err != nil {
		return errors.Join(err, app.Close())
	}
	console := ""
	if cfg.Routes[0].Path != "/chat/{room}" {
		console = "/"
	}
	d.Handler = demo.Page(demo.Options{Users: users, AuthPath: cfg.AuthPath, Console: console, AccessTTL: devTokenLife})
	app.o.Ready = func(*App) { printDev(o.Out, cfg, o.Upstream, users) }
	return errors.Join(app.run(ctx), app.Close())
}

// devPage is the page, known only after the users are.
type devPage struct{ http.Handler }

// devListener takes the address asked for, or the next free port.
func devListener(ctx context.Context, o DevOptions) (net.Listener, error) {
	host, portText, err := net.SplitHostPort(o.Listen)
	port, perr := strconv.ParseUint(portText, 10, 16)
	if err != nil || perr != nil {
		return nil, fmt.Errorf("--listen %q is not an address such as 127.0.0.1:8080", o.Listen)
	}
	loopback := (&config.Config{Listen: o.Listen}).Loopback()
	if !loopback && !o.InsecureHTTP {
		return nil, fmt.Errorf("--listen %s is reached by other machines, and dev speaks plain http: add --insecure-http if you accept that", o.Listen)
	}
	for tried := range uint64(devPorts) {
		addr := net.JoinHostPort(host, strconv.FormatUint(port+tried, 10))
		l, err := listenPublic(ctx, addr)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || port == 0 || port+tried >= 65535 {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no free port from %d to %d", port, port+devPorts-1)
}

func devConfig(o DevOptions, addr *net.TCPAddr) (*config.Config, []string, error) {
	port := strconv.Itoa(addr.Port)
	hosts := []string{"127.0.0.1:" + port, "localhost:" + port}
	if !addr.IP.IsLoopback() {
		if addr.IP.IsUnspecified() {
			hosts = append(hosts, localAddresses(port)...)
		} else {
			hosts = append(hosts, addr.String())
		}
	}
	src := "issuer: {access_ttl: " + devTokenLife.String() + ", refresh_grace: 5s}\ndrain: 1s\nroutes: []\n"
	cfg := config.New()
	if err := config.Overlay([]byte(src), cfg); err != nil {
		return nil, nil, err
	}
	cfg.Listen = addr.String()
	cfg.InsecureHTTP = o.InsecureHTTP
	cfg.PublicURL = config.URL{URL: &url.URL{Scheme: "http", Host: hosts[0]}}
	cfg.Hosts = hosts[1:]
	for _, h := range hosts {
		cfg.Origins = append(cfg.Origins, "http://"+h)
	}
	data, err := filepath.Abs(o.Data)
	if err != nil {
		return nil, nil, err
	}
	cfg.Data = data
	trust := config.Trust{Issuer: o.TrustIssuer, Audience: o.TrustAudience, Type: "any", ScopeClaim: "scope",
		Leeway: config.Duration(10 * time.Second), MaxLifetime: config.Duration(24 * time.Hour)}
	switch {
	case o.TrustSecretFile != "":
		trust.Algorithms, trust.Keys.SecretFile = []string{"HS256"}, o.TrustSecretFile
		cfg.Trust = append(cfg.Trust, trust)
	case o.TrustJWKS != "":
		trust.Algorithms, trust.Keys.File = []string{"RS256", "ES256", "EdDSA", "PS256"}, o.TrustJWKS
		cfg.Trust = append(cfg.Trust, trust)
	}
	return cfg, cfg.Origins, nil
}

func localAddresses(port string) []string {
	var out []string
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			out = append(out, net.JoinHostPort(n.IP.String(), port))
		}
	}
	return out
}

func devRoute(path, upstream string) config.Route {
	u, _ := url.Parse(upstream) // checked before
	r := config.NewRoute()
	r.Path, r.Upstream, r.TokenFrom = path, config.URLs{{URL: u}}, append(r.TokenFrom, "cookie")
	return r
}

// devUsers makes the demo accounts, with a new password at every start.
func (a *App) devUsers(ctx context.Context, origins []string) ([]demo.User, error) {
	var users []demo.User
	for i, name := range devUsers {
		raw := make([]byte, 18)
		_, _ = rand.Read(raw)
		password := base64.RawURLEncoding.EncodeToString(raw)
		if err := a.ensureUser(ctx, name, password, []string{devScopes}); err != nil {
			return nil, fmt.Errorf("the demo user %s: %w", name, err)
		}
		users = append(users, demo.User{
			Name: name, Password: password,
			Link:   origins[i%len(origins)] + "/#" + name, // another host name: another cookie jar
			Revoke: commandLine() + " revoke subject " + name + " --admin " + a.data.file(socketFile),
		})
	}
	return users, nil
}

// commandLine is how this program can be called from a shell.
func commandLine() string {
	self, err := os.Executable()
	if err != nil {
		return "wsbouncer"
	}
	if found, err := exec.LookPath("wsbouncer"); err == nil {
		if resolved, err := filepath.EvalSymlinks(found); err == nil && resolved == self {
			return "wsbouncer"
		}
	}
	if strings.Contains(self, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/wsbouncer"
	}
	return self
}

func printDev(w io.Writer, c *config.Config, upstream string, users []demo.User) {
	fmt.Fprintf(w, "\n  wsbouncer dev: %s\n\n", c.PublicURL)
	for _, u := range users {
		fmt.Fprintf(w, "  log in as %-5s %s\n", u.Name, u.Link)
	}
	fmt.Fprintf(w, "  upstream        %s behind %s\n", upstream, c.Routes[0].Path)
	for _, t := range c.Trust {
		fmt.Fprintf(w, "  trusted too     tokens with iss %q and aud %q\n", t.Issuer, t.Audience)
	}
	fmt.Fprintf(w, "  tokens live     %s; the page refreshes them under the live connection\n", devTokenLife)
	fmt.Fprintf(w, "  throw %s out   %s\n\n", users[0].Name, users[0].Revoke)
	fmt.Fprintf(w, "  in a terminal   %s connect %s --login %s   (password: %s)\n\n",
		commandLine(), devExample(c), users[0].Name, users[0].Password)
}

func devExample(c *config.Config) string {
	path := strings.NewReplacer("{room}", "lobby", "{path...}", "").Replace(c.Routes[0].Path)
	return "ws://" + c.PublicURL.Host + path
}
