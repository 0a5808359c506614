package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// docs/configuration.md shows every key there is, at its default.
func TestReference(t *testing.T) {
	b, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	block, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the document has no block of YAML")
	}
	eachKey(reflect.TypeFor[config.Config](), func(key string) {
		if !regexp.MustCompile(`(?m)^[ -]*` + key + `:`).MatchString(block) {
			t.Errorf("%s is not in the document", key)
		}
	})

	// The keys of one trust entry, and of a client, exclude each other: the document shows all.
	only := regexp.MustCompile(`(?m)^ +(pem|secret_file|discovery|url):.*\n`).ReplaceAllString(block, "")
	// So do the two places where a certificate comes from.
	acme := regexp.MustCompile(`(?m)^  acme:.*\n(    .*\n)+`)
	introspection := regexp.MustCompile(`(?m)^      introspection:.*\n(        .*\n)+`)
	if introspection.FindString(only) == "" {
		t.Error("the document shows no introspection")
	}
	only = introspection.ReplaceAllString(only, "")
	if acme.FindString(only) == "" {
		t.Error("the document shows no acme")
	}
	only = acme.ReplaceAllString(only, "")
	dir := t.TempDir()
	for _, name := range regexp.MustCompile(`[a-z]+\.(pem|key|json|txt)`).FindAllString(only, -1) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	only = strings.ReplaceAll(only, "http://127.0.0.1:8080", "https://127.0.0.1:8080") // it shows tls too
	got, _, err := config.Parse([]byte(only), filepath.Join(dir, "wsbouncer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	plain, _, err := config.Parse([]byte("issuer: {}\nclients: [{id: backend, jwks_file: "+filepath.Join(dir, "jwks.json")+"}]\ntrust: [{issuer: https://tenant.auth.example, audience: chat, algorithms: [RS256], keys: {file: "+
		filepath.Join(dir, "jwks.json")+"}}]\nroutes: [{path: '/chat/{room}', upstream: 'ws://127.0.0.1:9000'}]\n"), filepath.Join(dir, "wsbouncer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	checked, _, err := config.Parse([]byte("issuer: {}\nroutes: [{path: /, upstream: 'ws://127.0.0.1:9000', health_check: {path: /healthz}}]\n"), filepath.Join(dir, "wsbouncer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if l := got.Routes[0].Limits; l == nil || *l.ConnectionsPerSubject != plain.Limits.ConnectionsPerSubject ||
		*l.MessageBytes != plain.Limits.MessageBytes || *l.MessageRate != plain.Limits.MessageRate || *l.ByteRate != plain.Limits.ByteRate ||
		*l.IdleTimeout != plain.Limits.IdleTimeout || *l.WriteTimeout != plain.Limits.WriteTimeout || *l.Lifetime != plain.Limits.Lifetime ||
		*l.QueryTokenTTL != plain.Limits.QueryTokenTTL {
		t.Errorf("the route's limits are not the defaults: %+v", l)
	}
	// What has no default, or is named by the public URL, is an example.
	got.Issuer.Name, got.PublicURL, got.Origins = plain.Issuer.Name, plain.PublicURL, plain.Origins
	if h := got.Routes[0].HealthCheck; h == nil || *h != *checked.Routes[0].HealthCheck {
		t.Errorf("the health check is not the default: %+v", h)
	}
	got.Login.Providers, got.Events, got.Trust[0].Logout = nil, plain.Events, nil
	got.TLS, got.Routes[0].UpstreamTLS, got.Routes[0].Limits, got.Login.Password.Blocklist = nil, nil, nil, ""
	got.Routes[0].HealthCheck, got.Routes[0].Permissions, got.Routes[0].Allow = nil, nil, ""
	opts := cmp.Options{cmpopts.IgnoreUnexported(config.Config{}), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(plain, got, opts); diff != "" {
		t.Errorf("the document's values are not the defaults (-default +document):\n%s", diff)
	}
}

// eachKey calls fn for the keys this version has.
func eachKey(t reflect.Type, fn func(key string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || !strings.HasSuffix(t.PkgPath(), "/config") {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" || key == "-" || f.Tag.Get("later") != "" || allLater(f.Type) {
			continue
		}
		fn(key)
		eachKey(f.Type, fn)
	}
}

// allLater: a block whose every key is for a later version.
func allLater(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.NumField() == 0 {
		return false
	}
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("later") == "" {
			return false
		}
	}
	return true
}
