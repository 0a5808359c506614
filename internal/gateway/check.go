package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"
)

// HealthCheck asks an upstream whether it is well: a plain GET, each on a
// connection of its own, at the upstream's address and with its TLS settings.
// Nothing of an answer matters but its status, which is 2xx if it is well: no
// redirect is followed, and the body is not read.
type HealthCheck struct {
	Path     string
	Interval time.Duration
	// Timeout bounds a check, from its connection to the answer's head.
	Timeout time.Duration
	// UnhealthyThreshold is how many checks in a row that fail take an upstream out,
	// HealthyThreshold how many that pass bring it back.
	UnhealthyThreshold, HealthyThreshold int
}

// checking is a check that runs.
type checking struct {
	check HealthCheck
	stop  context.CancelFunc
	done  chan struct{}
}

func (c *checking) end() {
	c.stop()
	<-c.done
}

// check runs the checks of the routes in use until ctx ends. An upstream whose
// check a reload takes away is not out any more: nobody could take that back.
func (g *Gateway) check(ctx context.Context) {
	running := map[*upstream]*checking{}
	defer func() {
		for _, c := range running {
			c.end()
		}
	}()
	for {
		wanted := g.table.Load().checks
		for u, c := range running {
			if w, ok := wanted[u]; !ok || w != c.check {
				c.end()
				delete(running, u)
				if !ok {
					g.balance.unchecked(u)
				}
			}
		}
		for u, w := range wanted {
			if running[u] == nil {
				running[u] = g.startCheck(ctx, u, w)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-g.rerouted:
		}
	}
}

func (g *Gateway) startCheck(ctx context.Context, u *upstream, h HealthCheck) *checking {
	ctx, stop := context.WithCancel(ctx)
	c := &checking{check: h, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		g.keepChecking(ctx, u, h)
	}()
	return c
}

// keepChecking checks at once, and then at the interval, a tenth sooner or later so
// that many upstreams and many nodes do not keep step.
func (g *Gateway) keepChecking(ctx context.Context, u *upstream, h HealthCheck) {
	for {
		err := g.checkOnce(ctx, u, h)
		if ctx.Err() != nil {
			return
		}
		if lacking := exhausted(err); lacking != nil {
			g.ranOut(u, lacking, err)
		} else {
			g.balance.checked(u, h, err)
		}
		next := time.NewTimer(h.Interval*9/10 + rand.N(h.Interval/5+1)) //nolint:gosec // nothing secret depends on it
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		}
	}
}

// checkOnce is one check; nil: the upstream is well.
func (g *Gateway) checkOnce(ctx context.Context, u *upstream, h HealthCheck) error {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	c, err := g.connect(ctx, u, nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: wsbouncer\r\nConnection: close\r\n\r\n", h.Path, u.url.Host); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, maxHead)), &http.Request{Method: http.MethodGet}) //nolint:bodyclose // the connection is closed with it
	if err != nil {
		return fmt.Errorf("its answer: %w", err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return statusError(res.StatusCode)
	}
	return nil
}

// checked takes the outcome of a check.
func (b *balancer) checked(u *upstream, h HealthCheck, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, need := time.Now(), h.HealthyThreshold
	if err != nil {
		need = h.UnhealthyThreshold
		u.health.fault, u.health.faultAt = "health check: "+faultOf(err), now
	}
	switch changed := u.health.checked(err == nil, need, now); {
	case changed && err == nil:
		b.report.health(u, "the upstream is back")
	case changed:
		b.report.health(u, "the upstream is out: its health check fails", slog.String("error", err.Error()))
	}
}

// unchecked forgets what checks said.
func (b *balancer) unchecked(u *upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u.health.out, u.health.against = false, 0
}
