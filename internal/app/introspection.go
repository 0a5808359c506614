package app

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// asked is the trusted issuer that is asked about its tokens.
type asked struct {
	issuer string
	tokens *token.Introspection
	tell   *teller
}

func (p *plan) introspection(c *config.Config, t *config.Trust) (*token.Introspection, error) {
	i := t.Keys.Introspection
	secret, err := os.ReadFile(i.ClientSecretFile)
	if err != nil {
		return nil, err
	}
	n := &asked{issuer: t.Issuer, tell: new(teller)}
	n.tokens, err = token.NewIntrospection(token.IntrospectionOptions{
		URL: i.URL, ClientID: i.ClientID, ClientSecret: string(trimLine(secret)),
		Cache: i.Cache.D(), MaxStale: i.MaxStale.D(), Size: c.Limits.Connections,
		Observe: func(err error) { n.tell.asked(n.issuer, err) },
	})
	if err != nil {
		return nil, err
	}
	p.asked = n
	return n.tokens, nil
}

// asked bounds what it logs: strangers bring tokens.
func (t *teller) asked(issuer string, err error) {
	if a := t.to.Load(); a != nil && err != nil {
		a.watch.refusals.Log(context.Background(), slog.LevelWarn, "introspection", "an issuer could not be asked about a token",
			slog.String("issuer", issuer), slog.String("error", err.Error()))
	}
}

func (f *fetchers) asked() *asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ask
}

// idleRecheck is how often it is looked whether an issuer is to be asked now.
const idleRecheck = time.Second

// recheck asks again about the tokens that connections live by, and ends those
// whose token is not good any more, or of which nothing was heard for too long.
func (a *App) recheck(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if n := a.fetch.asked(); n != nil {
				n.tokens.Close()
			}
			return nil
		case <-timer.C:
		}
		pause := idleRecheck
		if n := a.fetch.asked(); n != nil {
			a.recheckOnce(ctx, n.issuer)
			pause = min(pause, n.tokens.Interval())
		}
		timer.Reset(pause)
	}
}

func (a *App) recheckOnce(ctx context.Context, issuer string) {
	live := map[string]bool{}
	a.bouncer.Reconsider(func(t *token.Token) (wsbouncer.Reason, bool) {
		for ; t != nil; t = t.From {
			if t.Issuer == issuer {
				live[t.KeyID] = true
			}
		}
		return wsbouncer.Reason{}, false
	})
	if len(live) == 0 {
		return
	}
	ids := make([]string, 0, len(live))
	for id := range live {
		ids = append(ids, id)
	}
	over, stale := a.trust.Recheck(ctx, issuer, ids)
	if len(over)+len(stale) == 0 {
		return
	}
	why := map[string]wsbouncer.Reason{}
	for _, id := range over {
		why[id] = reason.TokenRevoked
	}
	for _, id := range stale {
		why[id] = reason.Stale
	}
	closed := a.bouncer.Reconsider(func(t *token.Token) (wsbouncer.Reason, bool) {
		for ; t != nil; t = t.From {
			if r, ok := why[t.KeyID]; ok && t.Issuer == issuer {
				return r, true
			}
		}
		return wsbouncer.Reason{}, false
	})
	if closed > 0 {
		a.log.Info("connections ended: their issuer says that their token is not active, or said nothing for max_stale",
			"issuer", issuer, "closed", closed, "inactive", len(over), "unheard", len(stale))
	}
}
