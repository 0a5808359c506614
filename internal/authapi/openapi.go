package authapi

import (
	_ "embed"
	"encoding/json"
	"strings"
)

// openapiSource describes the whole API at its default prefix, and is written by
// hand.
//
//go:embed openapi.json
var openapiSource []byte

// describe is the source with this server's address and prefix, and without the
// calls it does not have.
func (a *API) describe() []byte {
	var doc map[string]any
	if err := json.Unmarshal(openapiSource, &doc); err != nil {
		panic("authapi: openapi.json: " + err.Error()) // it is part of the program
	}
	have := map[string]bool{}
	for _, e := range a.endpoints {
		have[e.path] = true
	}
	paths, _ := doc["paths"].(map[string]any)
	here := map[string]any{}
	for path, item := range paths {
		if rest, ok := strings.CutPrefix(path, defaultAuthPath+"/"); ok {
			path = a.o.AuthPath + "/" + rest
		}
		if have[path] {
			here[path] = item
		}
	}
	doc["paths"] = here
	doc["servers"] = []any{map[string]any{"url": a.base}}
	out, _ := json.Marshal(doc) // what was unmarshalled can be marshalled
	return out
}
