package app

import (
	"context"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

// status is what only the program knows of itself.
func (a *App) status(context.Context) adminapi.Status {
	c := a.current.Load()
	s := adminapi.Status{
		Version: a.o.Version, Started: a.started.UTC(), Ready: a.ready.Load(),
		PublicURL: c.PublicURL.String(), Issuer: a.ownIssuer(), Config: c.File,
	}
	if a.addr != nil {
		s.Public = a.addr.String()
	}
	for _, w := range *a.warnings.Load() {
		s.Warnings = append(s.Warnings, w.Path+": "+w.Message)
	}
	for _, r := range c.Routes {
		s.Routes = append(s.Routes, r.Path)
	}
	for _, u := range a.gateway.Upstreams() {
		s.Upstreams = append(s.Upstreams, adminapi.Upstream{
			URL: u.URL, Connections: u.Connections, State: u.State, Until: moment(u.Until),
			LastFailure: u.LastFailure, FailedAt: moment(u.FailedAt),
		})
	}
	s.Trust = a.trustStatus()
	for _, d := range a.gateway.Denials() {
		s.Denied = append(s.Denied, adminapi.Denied(d))
	}
	for _, x := range a.gateway.Exhausted() {
		s.Exhausted = append(s.Exhausted, adminapi.Exhausted(x))
	}
	return s
}

// moment is t in UTC, nil for none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
