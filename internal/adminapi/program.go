package adminapi

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// status is GET /v1/status.
func (a *api) status(w http.ResponseWriter, r *http.Request) error {
	s := Status{}
	if a.Status != nil {
		s = a.Options.Status(r.Context())
	}
	s.Go, s.Process = runtime.Version(), process()
	for range a.Bouncer.Live() {
		s.Connections++
	}
	if s.Routes == nil {
		s.Routes = []string{}
	}
	if s.Upstreams == nil {
		s.Upstreams = []Upstream{}
	}
	return writeJSON(w, s)
}

// stats is GET /v1/stats.
func (a *api) stats(w http.ResponseWriter, _ *http.Request) error {
	s := Stats{ByRoute: map[string]int{}, Process: process()}
	subjects := map[[2]string]struct{}{}
	for l := range a.Bouncer.Live() {
		s.Connections++
		s.ByRoute[routeName(l)]++ // routes are the configuration's, so they are few
		p := l.Principal()
		if p == nil {
			s.Waiting++
			continue
		}
		subjects[[2]string{p.Issuer, p.Subject}] = struct{}{}
	}
	s.Subjects = len(subjects)
	return writeJSON(w, s)
}

func process() Process {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p := Process{Goroutines: runtime.NumGoroutine(), HeapBytes: m.HeapAlloc, SystemBytes: m.Sys - m.HeapReleased}
	for _, dir := range []string{"/proc/self/fd", "/dev/fd"} {
		if names, err := os.ReadDir(dir); err == nil {
			p.Descriptors = len(names) - 1 // the folder itself was one
			break
		}
	}
	p.DescriptorLimit = descriptorLimit()
	return p
}

// reload is POST /v1/reload. A bad configuration is told to the caller, who
// wrote it, and changes nothing.
func (a *api) reload(w http.ResponseWriter, r *http.Request) error {
	if a.Reload == nil {
		return &httpx.Problem{Status: http.StatusConflict, Code: "reload_refused", Detail: "This server has no configuration file."}
	}
	if err := a.Reload(); err != nil {
		return &httpx.Problem{Status: http.StatusBadRequest, Code: "reload_refused", Detail: err.Error()}
	}
	if err := a.Audit.Write(r.Context(), audit.Event{Type: audit.Reloaded, Actor: actor}); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// audit is GET /v1/audit: newest first, from before on; or, with after, what
// came since, oldest first, for whoever follows.
func (a *api) audit(w http.ResponseWriter, r *http.Request) error {
	if a.Events == nil {
		return writeJSON(w, Page[AuditEvent]{Items: []AuditEvent{}})
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	before, err := number(r, "before")
	if err != nil {
		return err
	}
	after, err := number(r, "after")
	if err != nil {
		return err
	}
	var list []audit.Event
	if r.URL.Query().Has("after") {
		list, err = a.Events.Events(r.Context(), after, limit)
	} else {
		list, err = a.Events.EventsBefore(r.Context(), before, limit)
	}
	if err != nil {
		return err
	}
	p := Page[AuditEvent]{Items: []AuditEvent{}}
	for _, e := range list {
		p.Items = append(p.Items, auditEvent(e))
	}
	if len(list) == limit {
		p.Next = strconv.FormatInt(list[limit-1].ID, 10)
	}
	return writeJSON(w, p)
}

func auditEvent(e audit.Event) AuditEvent {
	out := AuditEvent{
		ID: e.ID, Time: e.Time.UTC(), Type: string(e.Type), Issuer: e.Issuer, Subject: e.Subject, Session: e.Session,
		Connection: e.Connection, Origin: e.Origin, UserAgent: e.UserAgent, Actor: e.Actor, Detail: e.Detail,
	}
	if e.IP.IsValid() {
		out.IP = e.IP.String()
	}
	return out
}
