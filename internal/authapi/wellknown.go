package authapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

const (
	jwksPath     = "/.well-known/jwks.json"
	metadataPath = "/.well-known/oauth-authorization-server"
)

// publicCache is how long others may keep our keys and metadata. A new key is
// published long before it signs, so a copy of this age is never without it.
const publicCache = "public, max-age=300"

func joinScopes(scopes []string) string { return strings.Join(scopes, " ") }

// jwks is GET /.well-known/jwks.json (RFC 7517 §8.5.1 registers the type).
func (a *API) jwks(w http.ResponseWriter, _ *http.Request) error {
	return writeDocument(w, "application/jwk-set+json", a.o.Ring.JWKS())
}

// clientMetadata is what there is for machine clients, in any.
type clientMetadata struct {
	TokenAlgorithms         []string `json:"token_endpoint_auth_signing_alg_values_supported,omitempty"`
	RevocationAlgorithms    []string `json:"revocation_endpoint_auth_signing_alg_values_supported,omitempty"`
	IntrospectionEndpoint   string   `json:"introspection_endpoint,omitempty"`
	IntrospectionAuth       []string `json:"introspection_endpoint_auth_methods_supported,omitempty"`
	IntrospectionAlgorithms []string `json:"introspection_endpoint_auth_signing_alg_values_supported,omitempty"`
}

// metadata is GET /.well-known/oauth-authorization-server (RFC 8414 §3), and
// names only what exists.
func (a *API) metadata(w http.ResponseWriter, _ *http.Request) error {
	doc := struct {
		Issuer             string   `json:"issuer"`
		TokenEndpoint      string   `json:"token_endpoint"`
		JWKSURI            string   `json:"jwks_uri,omitempty"`
		RevocationEndpoint string   `json:"revocation_endpoint"`
		Grants             []string `json:"grant_types_supported"`
		// Required by §2, and empty: there is no authorization endpoint.
		Responses       []string `json:"response_types_supported"`
		TokenAuth       []string `json:"token_endpoint_auth_methods_supported"`
		RevocationAuth  []string `json:"revocation_endpoint_auth_methods_supported"`
		ServiceDocument string   `json:"service_documentation"`
		Proofs          []string `json:"dpop_signing_alg_values_supported,omitempty"`
		clientMetadata
	}{
		Issuer: a.o.Issuer, TokenEndpoint: a.base + a.o.AuthPath + "/token", RevocationEndpoint: a.base + a.o.AuthPath + "/revoke",
		Grants: a.grants(), Responses: []string{}, TokenAuth: []string{"none"}, RevocationAuth: []string{"none"},
		ServiceDocument: a.base + a.o.AuthPath + "/openapi.json",
	}
	if a.o.Ring != nil {
		doc.JWKSURI = a.base + jwksPath
	}
	if a.o.Proofs != nil {
		doc.Proofs = token.ProofAlgorithms()
	}
	methods, algorithms := a.o.Clients.methods(), a.o.Clients.algorithms()
	doc.TokenAuth, doc.RevocationAuth = append(doc.TokenAuth, methods...), append(doc.RevocationAuth, methods...)
	doc.TokenAlgorithms, doc.RevocationAlgorithms = algorithms, algorithms
	if a.o.Clients.any(func(c *Client) bool { return c.Introspect }) {
		doc.IntrospectionEndpoint = a.base + a.o.AuthPath + "/introspect"
		doc.IntrospectionAuth, doc.IntrospectionAlgorithms = methods, algorithms
	}
	w.Header().Set("Cache-Control", publicCache)
	return httpx.WriteJSON(w, http.StatusOK, doc)
}

// healthz is GET /healthz: the process answers.
func (a *API) healthz(w http.ResponseWriter, _ *http.Request) error {
	return httpx.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz is GET /readyz: this node takes connections. Why it does not is the
// operator's, in the log.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) error {
	if a.o.Ready != nil {
		if err := a.o.Ready(r.Context()); err != nil {
			a.o.Log.DebugContext(r.Context(), "not ready", "error", err)
			return reason.NotReady
		}
	}
	return httpx.WriteJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (a *API) serveOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	return writeDocument(w, "application/json", a.openapi)
}

func writeDocument(w http.ResponseWriter, media string, body []byte) error {
	h := w.Header()
	h.Set("Cache-Control", publicCache)
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body)
	return nil
}
