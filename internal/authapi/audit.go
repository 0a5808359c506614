package authapi

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/token"
)

// request is where a request came from, carried in its context so that events
// written rooms away still tell.
type request struct {
	ip            netip.Addr
	origin, agent string
}

type requestKey struct{}

func (a *API) withRequest(r *http.Request) context.Context {
	ip := a.o.Peers.Addr(r)
	ctx := token.WithCaller(r.Context(), limit.IPKey(ip))
	return context.WithValue(ctx, requestKey{}, request{
		ip: ip, origin: audit.Cut(r.Header.Get("Origin"), maxOrigin), agent: audit.Cut(r.UserAgent(), maxAgent),
	})
}

// Bounds of what is kept of a request's headers, in bytes.
const (
	maxOrigin = 300
	maxAgent  = 256
)

func from(ctx context.Context) request {
	r, _ := ctx.Value(requestKey{}).(request)
	return r
}

// AuditFrom is next, with the address, Origin and User-Agent of the request that
// caused an event filled in where the event does not have them.
func AuditFrom(next audit.Sink) audit.Sink { return completing{next} }

type completing struct{ next audit.Sink }

func (c completing) Write(ctx context.Context, e audit.Event) error {
	r := from(ctx)
	if !e.IP.IsValid() {
		e.IP = r.ip
	}
	if e.Origin == "" {
		e.Origin = r.origin
	}
	if e.UserAgent == "" {
		e.UserAgent = r.agent
	}
	return c.next.Write(ctx, e)
}
