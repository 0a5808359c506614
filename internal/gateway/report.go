package gateway

import (
	"context"
	"log/slog"

	"github.com/wsbouncer/wsbouncer/internal/telemetry"
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

func (p *reporter) handshake(rt *route, what string, err error) {
	attrs := []slog.Attr{slog.String("route", rt.Path)}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	p.log.Log(context.Background(), slog.LevelInfo, "handshake", what, attrs...)
}
