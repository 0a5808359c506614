package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/app"
	"github.com/wsbouncer/wsbouncer/internal/config"
)

// adminFlags are those of every command that manages a running server.
type adminFlags struct {
	configFlag
	Admin string `placeholder:"PATH" help:"Admin socket (default: from the configuration, else ./wsbouncer-data/admin.sock)."`
	JSON  bool   `help:"Print JSON."`
}

const defaultData = "./wsbouncer-data"

// socket is where the server's admin socket is.
func (f adminFlags) socket() (string, error) {
	if f.Admin != "" {
		return f.Admin, nil
	}
	c, _, err := config.Load(f.path())
	if err == nil {
		return app.SocketPath(c.Data), nil
	}
	if f.Config == "" && errors.Is(err, fs.ErrNotExist) {
		return app.SocketPath(defaultData), nil
	}
	err = broken(f.path(), err)
	if file := (*brokenConfig)(nil); errors.As(err, &file) {
		file.hint = "a running server can be reached all the same: --admin DATA/admin.sock, DATA being its data folder"
	}
	return "", err
}

func (f adminFlags) client() (*adminapi.Client, error) {
	path, err := f.socket()
	if err != nil {
		return nil, err
	}
	return adminapi.NewUnixClient(path), nil
}

// withOffline is client, but where no server runs it opens the data folder
// itself, under the lock that keeps servers out.
func (f adminFlags) withOffline(ctx context.Context, s *streams, do func(*adminapi.Client) error) error {
	path, err := f.socket()
	if err != nil {
		return err
	}
	if f.Admin != "" || answers(ctx, path) {
		return do(adminapi.NewUnixClient(path))
	}
	cfg, err := f.load(s)
	if err != nil {
		return err
	}
	a, err := app.Offline(ctx, app.Options{Config: cfg, Version: version, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return errors.Join(do(adminapi.NewClient(a.AdminTransport())), a.Close())
}

// answers reports whether somebody listens on a socket.
func answers(ctx context.Context, path string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// print writes v as JSON, or what text writes.
func (f adminFlags) print(s *streams, v any, text func()) error {
	if f.JSON {
		return json.NewEncoder(s.out).Encode(v)
	}
	text()
	return nil
}

// table writes rows in columns. What strangers chose is made printable.
func table(s *streams, head string, rows [][]string) {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(head, " ", "\t"))
	for _, r := range rows {
		for i := range r {
			if r[i] = printable(r[i]); r[i] == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// list is a command that prints a paged list.
func list[T any](f adminFlags, s *streams, fetch func(c *adminapi.Client, after string) (adminapi.Page[T], error), head string, row func(T) []string) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return listWith(f, s, c, fetch, head, row)
}

func listWith[T any](f adminFlags, s *streams, c *adminapi.Client, fetch func(c *adminapi.Client, after string) (adminapi.Page[T], error), head string, row func(T) []string) error {
	items, err := adminapi.Collect(func(after string) (adminapi.Page[T], error) { return fetch(c, after) })
	if err != nil {
		return err
	}
	return f.print(s, items, func() {
		rows := make([][]string, len(items))
		for i, it := range items {
			rows[i] = row(it)
		}
		table(s, head, rows)
	})
}

// call is a command that makes one call and prints its answer.
func call[T any](f adminFlags, s *streams, do func(c *adminapi.Client) (T, error), text func(T) string) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return callWith(f, s, c, do, text)
}

func callWith[T any](f adminFlags, s *streams, c *adminapi.Client, do func(c *adminapi.Client) (T, error), text func(T) string) error {
	v, err := do(c)
	if err != nil {
		return err
	}
	return f.print(s, v, func() { fmt.Fprintln(s.out, text(v)) })
}

// done is the answer of calls that have none.
type done struct {
	OK bool `json:"ok"`
}

func connections(n int) string {
	if n == 1 {
		return "1 connection closed"
	}
	return fmt.Sprintf("%d connections closed", n)
}
