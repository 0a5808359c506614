package authapi_test

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/login"
)

// document is openapi.json, against which every answer of every test is held.
type document struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Responses map[string]response        `json:"responses"`
		Schemas   map[string]json.RawMessage `json:"schemas"`
	} `json:"components"`
}

type response struct {
	Ref     string `json:"$ref"`
	Content map[string]struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"content"`
}

type schema struct {
	Ref        string                     `json:"$ref"`
	Type       string                     `json:"type"`
	Properties map[string]json.RawMessage `json:"properties"`
	Required   []string                   `json:"required"`
	Additional *bool                      `json:"additionalProperties"`
	Items      json.RawMessage            `json:"items"`
	Enum       []string                   `json:"enum"`
	Const      any                        `json:"const"`
	AllOf      []json.RawMessage          `json:"allOf"`
}

func readDocument(t *testing.T) *document {
	t.Helper()
	raw, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	d := &document{}
	if err := json.Unmarshal(raw, d); err != nil {
		t.Fatal(err)
	}
	return d
}

// item finds the path item for a request's path.
func (d *document) item(path string) map[string]json.RawMessage {
	path, _, _ = strings.Cut(path, "?")
	if item, ok := d.Paths[path]; ok {
		return item
	}
	for _, below := range []string{"/auth/login/", "/auth/callback/"} {
		if strings.HasPrefix(path, below) {
			return d.Paths[below+"{provider}"]
		}
	}
	if strings.HasPrefix(path, "/auth/sessions/") {
		return d.Paths["/auth/sessions/{id}"]
	}
	if strings.HasPrefix(path, "/auth/factors/") {
		return d.Paths["/auth/factors/{id}"]
	}
	return nil
}

func (d *document) check(t *testing.T, method, path string, a *answer) {
	t.Helper()
	item := d.item(path)
	if item == nil {
		if a.status != http.StatusNotFound || a.code() != "no_route" {
			t.Errorf("%s %s is not described, and answered %d %s", method, path, a.status, a.body)
		}
		return
	}
	raw, ok := item[strings.ToLower(method)]
	if !ok {
		preflight := method == http.MethodOptions && (a.status == http.StatusNoContent || a.status == http.StatusForbidden)
		head := method == http.MethodHead && item["get"] != nil
		absent := a.status == http.StatusNotFound && a.code() == "no_route"
		if !preflight && !head && !absent && (a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") == "") {
			t.Errorf("%s %s is not described, and answered %d %s", method, path, a.status, a.body)
		}
		return
	}
	if a.status == http.StatusNotFound && a.code() == "no_route" && path != "/auth/ticket" {
		return // a call that this server does not have
	}
	var op struct {
		Responses map[string]response `json:"responses"`
	}
	if err := json.Unmarshal(raw, &op); err != nil {
		t.Fatal(err)
	}
	res, ok := op.Responses[strconv.Itoa(a.status)]
	if !ok {
		t.Errorf("%s %s: %d is not described: %s", method, path, a.status, a.body)
		return
	}
	if res.Ref != "" {
		res = d.Components.Responses[res.Ref[strings.LastIndexByte(res.Ref, '/')+1:]]
	}
	if len(a.body) == 0 {
		if len(res.Content) > 0 {
			t.Errorf("%s %s: %d without the body that is described", method, path, a.status)
		}
		return
	}
	content, ok := res.Content[a.header.Get("Content-Type")]
	if !ok {
		t.Errorf("%s %s: %d with type %q is not described", method, path, a.status, a.header.Get("Content-Type"))
		return
	}
	d.fits(t, method+" "+path+" "+strconv.Itoa(a.status), content.Schema, any(a.json))
}

// fits checks v against the part of JSON Schema that the document uses.
func (d *document) fits(t *testing.T, where string, raw json.RawMessage, v any) {
	t.Helper()
	var s schema
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatalf("%s: schema %s: %v", where, raw, err)
	}
	if s.Ref != "" {
		d.fits(t, where, d.Components.Schemas[s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]], v)
		return
	}
	for _, part := range s.AllOf {
		d.fits(t, where, part, v)
	}
	if s.Enum != nil && !slices.Contains(s.Enum, v.(string)) {
		t.Errorf("%s: %v is none of %v", where, v, s.Enum)
	}
	if s.Const != nil && s.Const != v {
		t.Errorf("%s: %v is not %v", where, v, s.Const)
	}
	ok := true
	switch s.Type {
	case "object":
		_, ok = v.(map[string]any)
	case "array":
		_, ok = v.([]any)
	case "string":
		_, ok = v.(string)
	case "integer":
		_, ok = v.(float64)
	case "boolean":
		_, ok = v.(bool)
	}
	if !ok {
		t.Errorf("%s: %v is no %s", where, v, s.Type)
	}
	if list, is := v.([]any); is && s.Items != nil {
		for _, item := range list {
			d.fits(t, where+"[]", s.Items, item)
		}
	}
	obj, is := v.(map[string]any)
	if !is {
		return
	}
	for _, name := range s.Required {
		if _, has := obj[name]; !has {
			t.Errorf("%s: %q is missing in %v", where, name, v)
		}
	}
	for name, member := range obj {
		if sub, known := s.Properties[name]; known {
			d.fits(t, where+"."+name, sub, member)
		} else if s.Additional != nil && !*s.Additional {
			t.Errorf("%s: %q is not described", where, name)
		}
	}
}

func TestOpenAPIDescribesExactlyTheRoutesThereAre(t *testing.T) {
	r := newRig(t, setup{api: func(o *authapi.Options) { o.Login = login.New(login.Options{}) }})
	got := r.want(r.do("GET", "/auth/openapi.json", nil), 200, "")
	paths := got.json["paths"].(map[string]any)
	if len(paths) != len(r.doc.Paths) {
		t.Errorf("the server describes %d paths, the source %d", len(paths), len(r.doc.Paths))
	}
	if servers := got.json["servers"].([]any); servers[0].(map[string]any)["url"] != "https://rt.example.com" {
		t.Errorf("servers: %v", servers)
	}
	for path, item := range r.doc.Paths {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			_, described := item[strings.ToLower(method)]
			a := r.do(method, strings.NewReplacer("{id}", "x", "{provider}", "x").Replace(path), nil, header("Accept", "application/json"))
			if there := a.status != http.StatusMethodNotAllowed && a.code() != "no_route"; there != described {
				t.Errorf("%s %s: described %v, answered %d %s", method, path, described, a.status, a.body)
			}
		}
	}
}

func TestOpenAPIFollowsTheConfiguration(t *testing.T) {
	r := newRig(t, setup{gateway: true, foreign: foreignIssuer(t), api: func(o *authapi.Options) { o.AuthPath = "/api/auth" }})
	r.doc.Paths["/api/auth/openapi.json"] = r.doc.Paths["/auth/openapi.json"]
	got := r.want(r.do("GET", "/api/auth/openapi.json", nil), 200, "")
	var paths []string
	for path := range got.json["paths"].(map[string]any) {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	want := []string{"/.well-known/jwks.json", "/api/auth/extend", "/api/auth/openapi.json", "/api/auth/ticket", "/api/auth/verify", "/healthz", "/readyz"}
	if !slices.Equal(paths, want) {
		t.Errorf("paths %v, want %v", paths, want)
	}
}
