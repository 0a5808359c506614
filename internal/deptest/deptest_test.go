package deptest_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
)

const module = "github.com/wsbouncer/wsbouncer"

// A rule is what one package may import of this module ("." is the root), and
// which third parties. Tests are free to import more.
type rule struct {
	of     []string // packages, by path below the module
	ours   []string
	theirs []string
	reason string
}

var rules = []rule{
	{of: []string{"internal/frame", "internal/reason", "internal/jsonscan", "internal/limit", "internal/wheel"},
		reason: "the ground floor holds decisions that everything uses; it knows nobody"},
	{of: []string{"internal/httpx"},
		reason: "plumbing of net/http that the library links: standard library only"},
	{of: []string{"internal/audit"}, reason: "events are data"},
	{of: []string{"internal/telemetry"}, reason: "logging knows no product types"},
	{of: []string{"internal/config"}, theirs: []string{"github.com/goccy/go-yaml"},
		reason: "configuration is data; whoever uses it translates it"},
	{of: []string{"token"}, ours: []string{"internal/jws", "internal/jsonscan", "internal/limit"}, theirs: []string{"github.com/go-jose/go-jose/v4"},
		reason: "importers verify tokens with the standard library and one JOSE module"},
	{of: []string{"internal/jws"}, ours: []string{"internal/jsonscan"},
		reason: "the signature layer of token, apart so that test/wycheproof can run the published vectors against it; it knows no claims"},
	{of: []string{"."}, ours: []string{"token", "internal/frame", "internal/reason", "internal/jsonscan", "internal/limit", "internal/wheel", "internal/httpx"},
		reason: "the library imports no room of the gateway, so that it stays small for importers"},
	{of: []string{"internal/message"}, ours: []string{"internal/jsonscan"}, reason: "readers of other people's protocols; they decide nothing"},
	{of: []string{"policy"}, ours: []string{".", "internal/jsonscan", "internal/limit"}, theirs: []string{"cel.dev/cel-go", "google.golang.org/protobuf"},
		reason: "rules can be imported; whoever does brings CEL, and the library itself does not"},
	{of: []string{"internal/login"}, ours: []string{ground, "policy"}, theirs: []string{"github.com/coreos/go-oidc/v3", "golang.org/x/oauth2"},
		reason: "what providers say is judged where nobody knows sessions"},
	{of: []string{"bouncertest"}, ours: []string{".", "token", "internal/frame"}, theirs: []string{"github.com/go-jose/go-jose/v4"},
		reason: "importers' tests use the library as they do"},
	{of: []string{"internal/relay"}, ours: []string{".", "token", ground}, reason: "the relay moves frames and knows no routes"},
	{of: []string{"internal/front"}, ours: []string{"internal/relay"}, reason: "the front reads heads and knows no tokens"},
	{of: []string{"internal/gateway"}, ours: []string{".", "token", ground, "internal/relay", "internal/message", "policy"},
		reason: "the gateway is the library's first ordinary customer"},
	{of: []string{"internal/account"}, ours: []string{".", "token", ground}, theirs: []string{"golang.org/x/crypto", "golang.org/x/text", "github.com/ccojocar/zxcvbn-go", "github.com/go-webauthn/webauthn"},
		reason: "rooms are siblings and do not know each other"},
	{of: []string{"internal/session"}, ours: []string{".", "token", ground}, theirs: []string{"golang.org/x/crypto"},
		reason: "rooms are siblings and do not know each other"},
	{of: []string{"internal/store/sqlite"}, ours: []string{".", "token", ground, "internal/session", "internal/account", "internal/login", "internal/store"},
		theirs: []string{"modernc.org/sqlite", "github.com/pressly/goose/v3"},
		reason: "no SQL driver is imported outside its own folder"},
	{of: []string{"internal/store", "internal/store/storetest"}, ours: []string{".", "token", ground, "internal/session", "internal/login", "internal/account", "internal/store"},
		theirs: []string{"github.com/google/go-cmp", "pgregory.net/rapid"},
		reason: "the conformance suite is the same for every store, so it knows none"},
	{of: []string{"internal/authapi", "internal/adminapi"}, ours: []string{".", "token", ground, "internal/session", "internal/account", "internal/secevent", "internal/login"},
		reason: "the HTTP APIs are siblings of the rooms that they speak for"},
	{of: []string{"internal/demo"}, ours: []string{ground}, theirs: []string{"github.com/coder/websocket"},
		reason: "the demo chat is an ordinary server that knows nothing of tokens"},
	{of: []string{"internal/secevent"}, ours: []string{"token", ground},
		reason: "it reads what others say and believes it or not; what ends is not its to know"},
	{of: []string{"internal/acme"}, theirs: []string{"github.com/caddyserver/certmagic", "go.uber.org/zap"},
		reason: "certificates come from a library with many parts, which nobody else may know"},
	{of: []string{"cmd/wsbouncer"}, ours: []string{"internal/app", "internal/adminapi", "internal/config", "internal/frame", "internal/reason", "token"},
		theirs: []string{"github.com/alecthomas/kong", "golang.org/x/term", "github.com/coder/websocket"},
		reason: "commands are thin: they parse, call and print"},
}

// ground stands for every package of the ground floor.
const ground = "<ground floor>"

var groundFloor = []string{
	"internal/frame", "internal/reason", "internal/jsonscan", "internal/limit", "internal/wheel",
	"internal/httpx", "internal/config", "internal/audit", "internal/telemetry",
}

// groundExtra is what the ground floor may import of itself.
var groundExtra = map[string][]string{
	"internal/frame":     {"internal/reason"},
	"internal/telemetry": {"internal/limit", "internal/audit"},
}

// onlyApp imports everything, and nobody but cmd imports it.
const onlyApp = "internal/app"

type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var ps []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func local(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func TestWhoImportsWhom(t *testing.T) {
	byPackage := map[string]rule{}
	for _, r := range rules {
		for _, p := range r.of {
			byPackage[p] = r
		}
	}
	seen := 0
	for _, p := range list(t, "./...") {
		name, _ := local(p.ImportPath)
		if name == onlyApp || below(name, "examples") || below(name, "test") || below(name, "bench") || name == "internal/deptest" {
			continue
		}
		r, ok := byPackage[name]
		if !ok {
			t.Errorf("%s has no rule: say in internal/deptest whom it may import and why", name)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if isStandard(imp) {
				continue
			}
			if l, ours := local(imp); ours {
				if !mayImport(name, r, l) {
					t.Errorf("%s imports %s, but %s", name, l, r.reason)
				}
			} else if !slices.ContainsFunc(r.theirs, func(m string) bool { return below(imp, m) }) {
				t.Errorf("%s imports %s, but %s", name, imp, r.reason)
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d packages were looked at", seen)
	}
}

func mayImport(name string, r rule, imp string) bool {
	if slices.Contains(groundExtra[name], imp) {
		return true
	}
	return slices.ContainsFunc(r.ours, func(m string) bool {
		switch m {
		case ground:
			return slices.Contains(groundFloor, imp)
		case ".":
			return imp == "."
		}
		return below(imp, m)
	})
}

func TestOnlyAppIsTheCompositionRoot(t *testing.T) {
	for _, p := range list(t, "./...") {
		name, _ := local(p.ImportPath)
		if slices.Contains(p.Imports, module+"/"+onlyApp) && name != "cmd/wsbouncer" {
			t.Errorf("%s imports %s; only cmd/wsbouncer does, so that construction happens in one place", name, onlyApp)
		}
	}
}

func TestTheLibraryLinksLittle(t *testing.T) {
	for _, p := range list(t, "-deps", ".") {
		_, ours := local(p.ImportPath)
		if p.Standard || ours || below(p.ImportPath, "github.com/go-jose/go-jose/v4") {
			continue
		}
		t.Errorf("a program that imports the library links %s; it is the standard library and go-jose alone", p.ImportPath)
	}
}

func TestTheLibraryExportsLittle(t *testing.T) {
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	add := func(id *ast.Ident) {
		if id.IsExported() {
			names = append(names, id.Name)
		}
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						add(s.Name)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							add(id)
						}
					}
				}
			}
		}
	}
	sort.Strings(names)
	if len(names) == 0 || len(names) > 30 {
		t.Errorf("%d exported package-level names, at most 30: %v", len(names), names)
	}
}
