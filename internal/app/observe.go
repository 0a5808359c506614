package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
	"github.com/wsbouncer/wsbouncer/internal/telemetry"
)

// logRefusalsPerSecond and logConnectionsPerSecond bound what strangers, and
// clients, can make us log; what is left out is counted and told.
const (
	logRefusalsPerSecond    = 50
	logConnectionsPerSecond = 500
)

// observer turns the library's events into log lines and counters. It may not
// block: lines of a kind beyond its bound are counted and not written.
type observer struct {
	refusals    *telemetry.Limited
	connections *telemetry.Limited
	counters
}

// counters count events since the start.
type counters struct {
	opened, refused, ended, extended, revocations atomic.Int64
}

// live is how many connections are open.
func (c *counters) live() int64 { return c.opened.Load() - c.ended.Load() }

func newObserver(log *slog.Logger) *observer {
	return &observer{
		refusals:    telemetry.NewLimited(log, logRefusalsPerSecond),
		connections: telemetry.NewLimited(log, logConnectionsPerSecond),
	}
}

// Observe implements wsbouncer.Observer.
func (o *observer) Observe(e wsbouncer.Event) {
	ctx := context.Background()
	who := []slog.Attr{
		slog.String("route", routeName(e.Route)), slog.String("connection", e.CID),
		slog.String("issuer", e.Issuer), slog.String("subject", e.Subject), slog.String("session", e.Session),
		slog.String("ip", addr(e)), slog.String("origin", e.Origin),
	}
	ms := slog.Float64("ms", float64(e.Duration.Microseconds())/1000)
	switch e.Kind {
	case "refused":
		o.refused.Add(1)
		attrs := append(who, ms)
		if e.Refusal != nil {
			attrs = append(attrs, slog.String("code", e.Refusal.Code), slog.Int("status", e.Refusal.Status))
		}
		o.refusals.Log(ctx, slog.LevelInfo, "refused", "handshake refused", attrs...)
	case "opened":
		o.opened.Add(1)
		o.connections.Log(ctx, slog.LevelInfo, "opened", "connection opened", append(who, ms)...)
	case "ended":
		o.ended.Add(1)
		o.connections.Log(ctx, slog.LevelInfo, "ended", "connection ended", append(who,
			slog.Int("close_code", int(e.Reason.Code)), slog.String("reason", e.Reason.Text),
			slog.String("lasted", e.Duration.Round(time.Millisecond).String()))...)
	case "extended":
		o.extended.Add(1)
		o.connections.Log(ctx, slog.LevelInfo, "extended", "connection extended", who...)
	case "revoked":
		o.revocations.Add(1)
		o.connections.Log(ctx, slog.LevelInfo, "revoked", "revocation applied",
			slog.String("kind", e.Revocation.Kind), slog.String("issuer", e.Revocation.Issuer),
			slog.String("value", e.Revocation.Value), slog.Int64("seq", e.Revocation.Seq),
			slog.String("reason", e.Revocation.Reason.Text), slog.Int("closed", e.Closed), ms)
	}
}

// proxyRefused tells of a connection that brought no good PROXY header.
func (o *observer) proxyRefused(proxy net.Addr, why error) {
	o.refusals.Log(context.Background(), slog.LevelWarn, "proxy", "connection refused at the PROXY header",
		slog.String("from", proxy.String()), slog.String("error", why.Error()))
}

// told is the audit trail: events are kept in the database, and told in the log
// once they are.
type told struct {
	store *sqlite.Store
	watch *observer
}

// Write implements audit.Sink.
func (t told) Write(ctx context.Context, e audit.Event) error {
	if !e.Type.Routine() {
		if err := t.store.Write(ctx, e); err != nil {
			return err
		}
	}
	t.store.AfterCommit(ctx, func() { t.watch.event(e.Bounded()) })
	return nil
}

// event writes a line about a security event.
func (o *observer) event(e audit.Event) {
	ip := ""
	if e.IP.IsValid() {
		ip = e.IP.String()
	}
	attrs := []slog.Attr{
		slog.String("event", string(e.Type)), slog.String("issuer", e.Issuer), slog.String("subject", e.Subject), slog.String("session", e.Session),
		slog.String("ip", ip), slog.String("origin", e.Origin), slog.String("user_agent", e.UserAgent),
	}
	if e.Connection != "" {
		attrs = append(attrs, slog.String("connection", e.Connection))
	}
	if e.Actor != "" {
		attrs = append(attrs, slog.String("actor", e.Actor))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		if e.Detail[k] != "" {
			attrs = append(attrs, slog.String(k, e.Detail[k]))
		}
	}
	lines := o.connections
	if e.Type.Stranger() {
		lines = o.refusals
	}
	lines.Log(context.Background(), slog.LevelInfo, string(e.Type), "security event", attrs...)
}

func addr(e wsbouncer.Event) string {
	if !e.IP.IsValid() {
		return ""
	}
	return e.IP.String()
}

func routeName(r any) string {
	if r == nil {
		return ""
	}
	return fmt.Sprint(r)
}
