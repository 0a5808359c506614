package gateway

import (
	"context"

	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// FailConnects lets f decide, before anything is dialled, whether a connection to
// an upstream fails: with its error, if any.
func (g *Gateway) FailConnects(f func(ctx context.Context, host string) error) {
	g.connect = func(ctx context.Context, u *upstream, beside *relay.Socket) (relay.Stream, error) {
		if err := f(ctx, u.url.Host); err != nil {
			return nil, err
		}
		return g.reach(ctx, u, beside)
	}
}
