package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/telemetry"
	"github.com/wsbouncer/wsbouncer/policy"
)

// reporter tells the operator why handshakes fail behind us. Strangers can
// cause such lines, so they are bounded by the second.
type reporter struct{ log *telemetry.Limited }

const reportsPerSecond = 20

func newReporter(log *slog.Logger) *reporter {
	return &reporter{telemetry.NewLimited(log, reportsPerSecond)}
}

func (p *reporter) upstream(rt *route, u *upstream, what string, err error) {
	p.log.Log(context.Background(), slog.LevelWarn, "upstream", what,
		slog.String("route", rt.Path), slog.String("upstream", u.url.Redacted()), slog.String("error", err.Error()))
}

func (p *reporter) exhausted(u *upstream, e *exhaustion, err error) {
	p.log.Log(context.Background(), slog.LevelError, "exhausted", e.what,
		slog.String("upstream", u.url.Redacted()), slog.String("error", err.Error()), slog.String("advice", e.advice))
}

// health tells what becomes of an upstream: a kind of its own, so that the
// failures that lead to it do not crowd it out.
func (p *reporter) health(u *upstream, what string, attrs ...slog.Attr) {
	p.log.Log(context.Background(), slog.LevelWarn, "upstream health", what, append([]slog.Attr{slog.String("upstream", u.url.Redacted())}, attrs...)...)
}

func (p *reporter) putAside(u *upstream, failures int, pause time.Duration) {
	p.health(u, "the upstream is put aside", slog.Int("failures", failures), slog.String("for", pause.Round(time.Millisecond).String()))
}

func (p *reporter) handshake(rt *route, what string, err error) {
	attrs := []slog.Attr{slog.String("route", rt.Path)}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	p.log.Log(context.Background(), slog.LevelInfo, "handshake", what, attrs...)
}

// denied tells of a message that is denied, or would be. What is in it is not
// told.
func (p *reporter) denied(route, connection, from string, d policy.Decision, report bool) {
	what := "a message is denied"
	if report {
		what = "a message would be denied"
	}
	attrs := []slog.Attr{slog.String("route", route), slog.String("connection", connection), slog.String("from", from), slog.String("why", d.Why)}
	if d.Rule >= 0 {
		attrs = append(attrs, slog.Int("rule", d.Rule))
	}
	p.log.Log(context.Background(), slog.LevelInfo, "permissions", what, attrs...)
}
