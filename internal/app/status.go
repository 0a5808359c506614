package app

import (
	"context"

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
	return s
}
