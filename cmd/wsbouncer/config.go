package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/app"
	"github.com/wsbouncer/wsbouncer/internal/config"
)

const defaultConfig = "wsbouncer.yaml"

// configFlag names the configuration.
type configFlag struct {
	Config string `placeholder:"FILE" env:"WSBOUNCER_CONFIG" help:"Configuration file (default ./wsbouncer.yaml)."`
}

func (f configFlag) path() string {
	if f.Config != "" {
		return f.Config
	}
	return defaultConfig
}

// load reads the configuration; warnings go to stderr, so that no insecure
// setting is silent.
func (f configFlag) load(s *streams) (*config.Config, error) {
	c, warnings, err := app.Load(f.path())
	if err != nil {
		return nil, broken(f.path(), err)
	}
	for _, w := range warnings {
		fmt.Fprintf(s.err, "warning: %s:%s\n", f.path(), w)
	}
	return c, nil
}

// brokenConfig is the problems of a configuration file.
type brokenConfig struct {
	path     string
	problems config.Problems
	hint     string // printed below them
}

func (b *brokenConfig) Error() string { return b.problems.Error() }

// broken says which file an error is about, if it is about its content.
func broken(path string, err error) error {
	var problems config.Problems
	if errors.As(err, &problems) {
		return &brokenConfig{path: path, problems: problems}
	}
	return err
}

type initCmd struct {
	Path  string `arg:"" optional:"" help:"Where to write it (default ./wsbouncer.yaml)."`
	Force bool   `help:"Overwrite a file that is there."`
}

// Run writes the example.
func (c *initCmd) Run(s *streams) error {
	path := c.Path
	if path == "" {
		path = defaultConfig
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if c.Force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists; --force overwrites it", path)
	} else if err != nil {
		return err
	}
	if _, err := f.Write(config.Example); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "wrote %s; next: wsbouncer user add NAME, then wsbouncer serve\n", path)
	return nil
}

type checkCmd struct {
	configFlag
	JSON bool `help:"Print JSON."`
}

// Run reports everything that is wrong, then what is in force.
func (c *checkCmd) Run(s *streams) error {
	path := c.path()
	cfg, warnings, err := app.Load(path)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	var effective []byte
	if len(problems) == 0 {
		if effective, err = cfg.Effective(); err != nil {
			return err
		}
	}
	if c.JSON {
		err = json.NewEncoder(s.out).Encode(struct {
			OK       bool            `json:"ok"`
			Problems config.Problems `json:"problems"`
			Warnings config.Problems `json:"warnings"`
		}{len(problems) == 0, orEmpty(problems), orEmpty(warnings)})
		if err != nil {
			return err
		}
	} else {
		for _, p := range problems {
			fmt.Fprint(s.err, p.Render(path))
		}
		for _, w := range warnings {
			w.Message = "warning: " + w.Message
			fmt.Fprint(s.err, w.Render(path))
		}
		_, _ = s.out.Write(effective)
	}
	if len(problems) > 0 {
		return errQuiet
	}
	return nil
}

func orEmpty(ps config.Problems) config.Problems {
	if ps == nil {
		return config.Problems{}
	}
	return ps
}

type serveCmd struct {
	configFlag
}

// Run serves until the context ends.
func (c *serveCmd) Run(ctx context.Context, s *streams) error {
	load := func() (*config.Config, config.Problems, error) { return app.Load(c.path()) }
	cfg, warnings, err := load()
	if err != nil {
		return broken(c.path(), err)
	}
	return app.Serve(ctx, app.Options{Config: cfg, Warnings: warnings, Version: version, Log: app.Logger(s.err), Load: load})
}

type devCmd struct {
	Upstream        string `placeholder:"URL" help:"Your server instead of the demo chat, for example ws://127.0.0.1:3000."`
	TrustSecretFile string `placeholder:"FILE" xor:"trust" help:"Also accept HS256 tokens made with this secret."`
	TrustJWKS       string `name:"trust-jwks" placeholder:"FILE" xor:"trust" help:"Also accept tokens whose keys are in this JWKS."`
	TrustIssuer     string `placeholder:"ISS" help:"The iss of those tokens (default: dev)."`
	TrustAudience   string `placeholder:"AUD" help:"The aud of those tokens (default: wsbouncer)."`
	Listen          string `placeholder:"ADDR" default:"127.0.0.1:8080" help:"Where to listen; a taken port: the next."`
	InsecureHTTP    bool   `name:"insecure-http" help:"Allow a listener other machines reach, without TLS."`
	Data            string `placeholder:"DIR" help:"Keep the data in this folder (default: a temporary one, removed at the end)."`
}

// Run serves the development setup until the context ends.
func (c *devCmd) Run(ctx context.Context, s *streams) error {
	if c.TrustSecretFile == "" && c.TrustJWKS == "" && (c.TrustIssuer != "" || c.TrustAudience != "") {
		return usageError("--trust-issuer and --trust-audience need the keys: --trust-jwks or --trust-secret-file")
	}
	return app.Dev(ctx, app.DevOptions{
		Upstream: c.Upstream, TrustSecretFile: c.TrustSecretFile, TrustJWKS: c.TrustJWKS,
		TrustIssuer: cmp.Or(c.TrustIssuer, "dev"), TrustAudience: cmp.Or(c.TrustAudience, "wsbouncer"),
		Listen: c.Listen, InsecureHTTP: c.InsecureHTTP, Data: c.Data,
		Version: version, Log: app.Logger(s.err), Out: s.out,
	})
}

type healthCmd struct {
	configFlag
	URL     string        `placeholder:"URL" help:"Ask this address instead of the configuration's."`
	Timeout time.Duration `default:"5s" help:"How long to wait."`
}

// Run asks /readyz, or the admin socket where the public listener speaks only to
// whom this machine is not.
func (c *healthCmd) Run(ctx context.Context, s *streams) error {
	url := c.URL
	var host string
	client := &http.Client{Timeout: c.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if url == "" {
		cfg, _, err := config.Load(c.path())
		if err != nil {
			return broken(c.path(), err)
		}
		if app.Selective(cfg) {
			return c.bySocket(ctx, s, app.SocketPath(cfg.Data))
		}
		url, host, client.Transport = app.LocalURL(cfg)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return usageError(err.Error())
	}
	if host != "" {
		req.Host = host
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not reachable: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
		return fmt.Errorf("not ready: %s %s", res.Status, body)
	}
	fmt.Fprintln(s.out, "ready")
	return nil
}

func (c *healthCmd) bySocket(ctx context.Context, s *streams, path string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	st, err := adminapi.NewUnixClient(path).Status(ctx)
	if err != nil {
		return fmt.Errorf("not reachable: %w", err)
	}
	if !st.Ready {
		return errors.New("not ready: starting or stopping")
	}
	fmt.Fprintln(s.out, "ready")
	return nil
}

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints the version.
func (c *versionCmd) Run(s *streams) error {
	if c.JSON {
		return json.NewEncoder(s.out).Encode(map[string]string{"version": version, "go": app.GoVersion()})
	}
	fmt.Fprintf(s.out, "wsbouncer %s (%s)\n", version, app.GoVersion())
	return nil
}
