package httpx

import (
	"fmt"
	"net/http"
)

// Hosts is the set of Host names a listener answers to. It is what stops a page
// whose name was rebound to our address (DNS rebinding) from speaking to us as
// its own origin.
type Hosts struct {
	set map[string]struct{}
}

// ParseHosts makes a set of entries host or host:port. One without a port
// matches any port: rebinding changes names, not ports. An empty list answers
// to any name. The error names the bad entry.
func ParseHosts(list []string) (*Hosts, error) {
	h := &Hosts{set: make(map[string]struct{}, len(list))}
	for _, entry := range list {
		host, port, err := splitHostPort(lowerASCII(entry))
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", entry, err)
		}
		if port != "" {
			host += ":" + port
		}
		h.set[host] = struct{}{}
		// Clients leave a default port out.
		if port == "80" || port == "443" {
			h.set[host[:len(host)-len(port)-1]+":"] = struct{}{}
		}
	}
	return h, nil
}

// Allowed reports whether a request's Host is in the set. A malformed one is
// not, unless the set is empty.
func (h *Hosts) Allowed(host string) bool {
	if len(h.set) == 0 {
		return true
	}
	if len(host) > maxOrigin {
		return false
	}
	name, port, err := splitHostPort(lowerASCII(host))
	if err != nil {
		return false
	}
	if _, ok := h.set[name]; ok {
		return true
	}
	// "name:" stands for a default port left out.
	_, ok := h.set[name+":"+port]
	return ok
}

// unknownHost is the refusal of a Host that is not ours (RFC 9110 §15.5.20).
var unknownHost = &Problem{
	Status: http.StatusMisdirectedRequest, Code: "unknown_host",
	Detail: "This server does not answer to that Host name. Use the public URL.",
}

// Middleware refuses requests with a foreign Host: 421 unknown_host.
func (h *Hosts) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.Allowed(r.Host) {
			WriteProblem(w, unknownHost)
			return
		}
		next.ServeHTTP(w, r)
	})
}
