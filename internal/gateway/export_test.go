package gateway

import (
	"context"
	"crypto/tls"
	"net"
)

// FailConnects lets f decide, before anything is dialled, whether a connection to
// an upstream fails: with its error, if any.
func (g *Gateway) FailConnects(f func(ctx context.Context, host string) error) {
	g.connect = func(ctx context.Context, u *upstream, conf *tls.Config) (net.Conn, error) {
		if err := f(ctx, u.url.Host); err != nil {
			return nil, err
		}
		return connect(ctx, u, conf)
	}
}
